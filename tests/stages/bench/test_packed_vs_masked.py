import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from click.testing import CliRunner

from medmim.cli import main
from medmim.cli.bench import bench_lines
from medmim.errors import ShapeError
from medmim.stages.bench.packed_vs_masked import bench, default_setup
from medmim.stages.bench.workload import forward_of, growth_of, peak_of, workload

WORDS = ["bench", "--encoder", "dynunet", "--size", "32", "--batch-size", "1", "--precision", "fp32"]
WORDS += ["--runs", "1", "--no-memory"]


def small(dims=2, **changes):
    setup = default_setup(dims, "dynunet", size=(16,), batch=2, mask="random")
    return replace(setup, encoder_options={"filters": (4, 6, 8)}, **changes)


@pytest.mark.parametrize("dims", ["2", "3"])
def test_the_command_times_every_variant(dims):
    result = CliRunner().invoke(main, [*WORDS, "--dims", dims, "--ratio", "0.5", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    steps = ["packed", "masked", "official", "dense"] if dims == "2" else ["packed", "masked", "dense"]
    assert [(row["part"], row["variant"]) for row in rows] == [
        *(("encoder", variant) for variant in ("packed", "masked", "dense")),
        *(("step", variant) for variant in steps),
    ]
    assert all(row["milliseconds"] > 0 for row in rows)


def test_options_of_the_encoder_are_used_and_other_text_is_refused():
    setup = default_setup(2, "resnet18", options={"widths": [4, 8]})
    assert setup.encoder_options == {"max_pool": True, "widths": [4, 8]}
    result = CliRunner().invoke(main, [*WORDS, "--encoder-options", "L"])
    assert result.exit_code == 2
    assert "expected YAML such as '{size: L}', got 'L'" in result.stderr


def test_the_table_has_one_line_per_row():
    result = CliRunner().invoke(main, [*WORDS, "--ratio", "0.5", "--ratio", "0.75", "--part", "encoder"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("dynunet on 1×3×32×32, cell 8×8, mask mesh; ")
    assert [line.split()[2:4] for line in lines[4:10]] == [
        [ratio, variant] for ratio in ("0.50", "0.75") for variant in ("packed", "masked", "dense")
    ]
    assert max(map(len, lines)) <= 110


def test_an_invalid_ratio_is_a_one_line_error():
    result = CliRunner().invoke(main, ["bench", "--ratio", "1.2", "--runs", "1"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_an_image_that_cells_do_not_divide_is_rejected_with_valid_sizes():
    with pytest.raises(ShapeError, match="use --size 16,16"):
        bench(small(size=(14, 14)), runs=1, memory=False)


def test_speed_ups_are_ratios_of_the_measured_times():
    told = []
    result = bench(
        small(),
        ratios=(0.3,),
        precisions=("fp32", "bf16"),
        runs=2,
        memory=False,
        time_source="processor",
        progress=lambda *a: told.append(a),
    )
    assert result.setup.cell == (4, 4)
    assert (result.machine["runs"], result.machine["time_source"]) == (2, "processor")
    assert "processor time" in bench_lines(result)[0]
    assert [done for _, done, total in told] == [0, 1, 2, 3]
    for part in ("encoder", "step"):
        for precision in ("fp32", "bf16"):
            rows = {row.variant: row for row in result.rows if (row.part, row.precision) == (part, precision)}
            for row in rows.values():
                assert row.against_masked == pytest.approx(rows["masked"].milliseconds / row.milliseconds)
                assert row.against_dense == pytest.approx(rows["dense"].milliseconds / row.milliseconds)
                assert row.realised_ratio == 5 / 16
                assert row.share_of_limit == pytest.approx(row.against_dense * 11 / 16)
                assert (row.against_official is not None) == (part == "step")
                assert row.peak_mb is None


@pytest.mark.parametrize("part", ["encoder", "step"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_workload_runs_a_forward_and_backward_pass(part, precision, dims):
    case = small(dims, part=part, precision=precision, cell=(4,) * dims)
    for variant in ("packed", "masked", "dense", *(["official"] if part == "step" and dims == 2 else [])):
        run = workload(case, variant)
        run(), run()


def test_all_variants_share_weights_and_images():
    losses = []
    for variant in ("packed", "masked"):
        _, forward = forward_of(small(part="step", cell=(4, 4)), variant)
        losses.append(forward()[0].detach())
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_fresh_process():
    case = small(3, size=(64,) * 3, cell=(4,) * 3, ratio=0.9)
    masked, packed = (peak_of(partial(workload, case, variant)) for variant in ("masked", "packed"))
    # one feature map of the first stage takes 8 MiB, and the masked variant keeps several
    assert masked > 16
    assert 0 < packed < masked
    assert growth_of(partial(workload, case, "packed")) >= 0


def test_a_busy_machine_is_reported():
    result = bench(small(), ratios=(0.5,), precisions=("fp32",), parts=("encoder",), runs=1, memory=False)
    busy = replace(result, machine=result.machine | {"load_before": 7.5})
    assert "repeat the benchmark when it is idle" in bench_lines(busy)[-1]
    quiet = replace(result, machine=result.machine | {"load_before": 0.1})
    assert "repeat" not in "\n".join(bench_lines(quiet))
