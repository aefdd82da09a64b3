from benchmarks.explanations.stages.progress_mode import progress


def test_plain_progress_is_made_of_lines_and_quiet_is_silent(capsys):
    with progress("explain", 3, "map", "plain") as bar:
        bar.delay = 0
        bar.update(3)
        bar.refresh()
    shown = capsys.readouterr().err
    assert shown.startswith("explain: 3/3 ")
    assert shown.endswith("left\n")
    assert "\r" not in shown
    with progress("explain", 3, "map", "quiet") as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")
