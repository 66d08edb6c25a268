from medmim.stages.study.resource_meter import Meter


def counter(folder, microjoule):
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoule}\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")


def test_energy_is_read_from_the_counters(tmp_path):
    counter(tmp_path / "intel-rapl:0", 100)
    counter(tmp_path / "intel-rapl:1", 999_000_000)
    meter = Meter(tmp_path)
    counter(tmp_path / "intel-rapl:0", 100 + 3_600_000_000 // 4)
    counter(tmp_path / "intel-rapl:1", 1_000_000)  # the counter wrapped around
    assert abs(meter.costs()["cost/energy_wh"] - (0.25 + 2_000_000 / 3.6e9)) < 1e-9


def test_without_counters_energy_is_left_out(tmp_path):
    costs = Meter(tmp_path).costs()
    assert "cost/energy_wh" not in costs
    assert costs["cost/minutes"] >= 0
    assert 0.05 < costs["cost/peak_memory_gb"] < 500
