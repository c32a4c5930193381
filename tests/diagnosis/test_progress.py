import sys

from pfn_optax.diagnosis.progress import progress_of


def test_a_bar_counts_what_is_done(capsys):
    with progress_of(3, is_shown=True) as steps:
        for name in ("one", "two"):
            steps.begin(name)
        steps._bar.refresh()
        assert steps._bar.n == 1
    assert "two" in capsys.readouterr().err


def test_without_tqdm_it_is_lines(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress_of(2, is_shown=True) as steps:
        steps.begin("one")
        steps.begin("two")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_nothing_unless_asked(capsys):
    with progress_of(2, is_shown=False) as steps:
        steps.begin("one")
    assert capsys.readouterr().err == ""
