"""What docs/growth_experiments.md says of the waist and of planted bottlenecks.

`python -m experiments.growth.waist_tables` writes it, from the committed results.
"""

from experiments.growth import planted_summary, waist_summary
from experiments.growth.pages import marked, results


def tables() -> dict[str, str]:
    """Markdown by the name of its mark."""
    return {
        "waist": waist_summary.text(results("grow_waist")["rows"]),
        "planted": planted_summary.text(results("grow_planted")["rows"]),
        "planted slowly": planted_summary.text(results("grow_planted_slow")["rows"]),
    }


if __name__ == "__main__":
    for name, text in tables().items():
        marked(name, text)
