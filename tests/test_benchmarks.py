"""benchmarks: the table is written, and what the documents quote is what was measured."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import floors, run
from diffnotes.training.presets import PRESETS


def goals(found: dict) -> set[tuple[str, str]]:
    return {(row["what"], row["goal"].split(",")[0]) for row in found["rows"] if row["goal"]}


GOALS = {("DDIM jump / bare", "<= 1.5"), ("diffusers / DDIM jump", ">= 5")}  # of diffusers, the documented call


@pytest.mark.usefixtures("one_thread")
def test_all_of_it_runs_tiny_and_writes_its_table(tmp_path: Path) -> None:
    documents = [(run.ROOT / name).read_bytes() for name in run.DOCUMENTS]
    run.main(["--tiny", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "cpu.json").read_text("utf-8"))
    assert found.keys() >= {"date", "cpu", "cores", "python", "torch", "rows"}
    compared = [(row["what"].split(" in ")[0], row["threads"]) for row in found["rows"]]
    for what in ("DDIM jump / bare", "DDPM jump / bare"):
        assert {(what, 1), (what, 2)} <= set(compared)
    for what in ("DDIM sample / its network", "2M sample / its network", "Trainer.step / bare", "DDIM"):
        assert (what, 1) in compared
    assert goals(found) == {goal for goal in GOALS if run.PEER or "diffusers" not in goal[0]}
    table = (tmp_path / "cpu.md").read_text("utf-8")
    for row in found["rows"]:
        assert row["quartiles"][0] <= row["ratio"] <= row["quartiles"][1]
        assert f"| {row['what']} | {row['threads']} | **{row['ratio']:g}** |" in table
    assert documents == [(run.ROOT / name).read_bytes() for name in run.DOCUMENTS]


@pytest.mark.parametrize("name", run.DOCUMENTS)
def test_the_documents_quote_what_was_measured(name: str) -> None:
    found = json.loads((run.RESULTS / "cpu.json").read_text("utf-8"))
    assert run.QUOTE.findall((run.ROOT / name).read_text("utf-8")) == [run.quote(found)]
    assert (run.RESULTS / "cpu.md").read_text("utf-8") == run.table(found)
    assert goals(found) == GOALS
    assert f"diffusers=={found['diffusers']}\n" in (run.ROOT / "requirements.txt").read_text("utf-8")


@pytest.mark.parametrize(("goal", "said"), [("<= 1.5", "met"), ("<= 1.4", "missed"), (">= 1.6", "missed")])
def test_a_ratio_is_that_of_one_round(goal: str, said: str) -> None:
    found = run.row("a / b", [1.5, 3.0, 9.0], [1.0, 2.0, 4.0], count=2, goal=goal)
    assert (found["ratio"], found["microseconds"], found["rounds"]) == (1.5, [1.5e6, 1e6], 3)
    assert found["goal"] == f"{goal}, {said}"


def test_the_bare_step_trains_and_its_average_needs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    averaged: list[torch.Tensor] = []
    kept = floors.get_ema_multi_avg_fn

    def watched(decay: float) -> object:
        average = kept(decay)

        def of(ours: list[torch.Tensor], theirs: list[torch.Tensor], count: None) -> None:
            average(ours, theirs, count)
            averaged[:] = ours

        return of

    monkeypatch.setattr(floors, "get_ema_multi_avg_fn", watched)
    preset = PRESETS["fashion-cpu"]()
    net = preset.network()
    before = [weights.detach().clone() for weights in net.parameters()]
    floors.bare_step(preset, net, net)()
    assert not any(weights.requires_grad for weights in averaged)
    assert any(not torch.equal(a, b) for a, b in zip(before, averaged, strict=True))
