from search_spaces.protocol import Heartbeat, TrialLine, TrialState


def test_what_no_database_or_json_can_hold_leaves_a_text_that_both_can() -> None:
    names = {"model.argument\0": "x\ud800", "flag": True, "n": 3, "lr": 0.5}
    line = TrialLine(trial=0, state=TrialState.ERROR, stop_reason="a\0b\ud800c é", parameters=names)
    beat = Heartbeat(phase="failed", reason="\udcff!", trials=[line])
    assert (beat.reason, beat.trials[0].stop_reason) == ("?!", "ab?c é")
    assert repr(beat.trials[0].parameters) == repr({"model.argument": "x?", "flag": True, "n": 3, "lr": 0.5})
    assert Heartbeat.model_validate_json(beat.model_dump_json()) == beat
