"""What pages show: `python -m tests.shown README.md docs/NAME.md` writes what blocks print."""

import contextlib
import io
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def with_outputs(text, name):
    """The page, with each `text` block that follows a `python` block holding what that prints."""
    names, printed = {}, None

    def block(match):
        nonlocal printed
        language, code = match.groups()
        shown, printed = printed, None
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, name, "exec"), names)
            printed = out.getvalue()
        return (
            match[0] if shown is None or language != "text" else f"```text\n{shown.rstrip()}\n```"
        )

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_outputs(path.read_text("utf-8"), path.name), "utf-8")
