from dataclasses import replace

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.cli.bench import bench_lines
from medmim.errors import ShapeError
from medmim.stages.bench.packed_vs_masked import bench, default_setup


def small(dims=2, **changes):
    setup = default_setup(dims, "dynunet", size=(16,), batch=2, mask="random")
    return replace(setup, encoder_options={"filters": (4, 6, 8)}, **changes)


def test_options_of_the_encoder_are_used_and_other_text_is_refused():
    setup = default_setup(2, "resnet18", options={"widths": [4, 8]})
    assert setup.encoder_options == {"max_pool": True, "widths": [4, 8]}
    result = CliRunner().invoke(main, ["bench", "--encoder-options", "L"])
    assert result.exit_code == 2
    assert "expected YAML such as '{size: L}', got 'L'" in result.stderr


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


def test_a_busy_machine_is_reported():
    result = bench(small(), ratios=(0.5,), precisions=("fp32",), parts=("encoder",), runs=1, memory=False)
    busy = replace(result, machine=result.machine | {"load_before": 7.5})
    assert "repeat the benchmark when it is idle" in bench_lines(busy)[-1]
    quiet = replace(result, machine=result.machine | {"load_before": 0.1})
    assert "repeat" not in "\n".join(bench_lines(quiet))
