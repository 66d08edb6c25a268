import tiny

from medmim.cli.pretrain import next_finetuning


def test_the_next_command_names_the_users_own_encoder(tmp_path):
    data = tiny.make_dataset(tmp_path / "data")
    assert next_finetuning(data, "my_nets:build").endswith(f"{data} --trust-code my_nets:build")
    assert next_finetuning(data, "timm:convnext_tiny").endswith(str(data))
