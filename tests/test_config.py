import itertools
import tomllib

import pytest

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.presets import demo_experiment
from circuitlapse.config.toml import read_experiment, to_toml
from circuitlapse.errors import CircuitlapseError

_CONTROLS = '[base]\npath = "x"\n[controls]\n'


def _message(tmp_path, text: str) -> str:
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    with pytest.raises(CircuitlapseError) as caught:
        read_experiment(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "experiment", [demo_experiment("default", 3), demo_experiment("natural", full=True)]
)
def test_what_is_printed_is_read_back(tmp_path, experiment):
    path = tmp_path / "experiment.toml"
    path.write_text(to_toml(experiment))
    assert read_experiment(path) == experiment


def test_every_key_is_printed_with_its_meaning():
    lines = to_toml(demo_experiment()).splitlines()
    sections = {*Experiment.model_fields, "finetune.lora", "finetune.grid"} - {"checkpoints"}
    for section in sections:
        assert f"[{section}]" in lines
    assert "# checkpoints =" in lines
    for before, line in itertools.pairwise(lines):
        if " =" in line and not line.startswith("# "):
            assert before.startswith("# "), line


def test_a_misspelt_key_is_named_with_the_right_one(tmp_path):
    message = _message(tmp_path, '[base]\norganism = "default"\n[finetune]\nlearning_rat = 1e-3\n')
    assert "`finetune.learning_rat` is not a key; did you mean `learning_rate`?" in message
    assert str(tmp_path / "experiment.toml") in message
    assert "--print-config" in message


def test_a_misspelt_section_is_named(tmp_path):
    message = _message(tmp_path, '[base]\norganism = "default"\n[finetunes]\n')
    assert "`finetunes` is not a key; did you mean `finetune`?" in message


def test_a_key_like_no_other_lists_the_known_ones(tmp_path):
    message = _message(tmp_path, '[base]\norganism = "default"\nzzz = 1\n')
    assert "`base.zzz` is not a key; known: organism, pretrain, path, seed" in message


def test_all_faults_are_named_at_once(tmp_path):
    message = _message(tmp_path, "[tasks]\nold = 3\n[finetune]\nsteps = -1\n")
    assert "`base` is missing" in message
    assert "`tasks.old`" in message
    assert "`finetune.steps`: input should be greater than 0 (got -1)" in message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[base]\n", "name exactly one of `organism` and `path`"),
        (
            '[base]\norganism = "default"\npath = "gpt2"\n',
            "name exactly one of `organism` and `path`",
        ),
        ('[base]\npath = "gpt2"\n[tasks]\nold = "ioi3"\n', "must be two tasks"),
        (
            '[base]\npath = "gpt2"\n[finetune]\nseeds = [1, 1]\n',
            "`seeds` has duplicates: [1, 1]",
        ),
        ('[base]\npath = "gpt2"\n[finetune]\nsteps = 4\n', "`save_every` (8) exceeds `steps` (4)"),
        ('[base]\npath = "gpt2"\n[measure]\ncircuit_sizes = [1.5]\n', "less than or equal to 1"),
        (
            '[base]\npath = "x"\n[finetune]\ntrain_only = ["a1.h3", "h3"]\n',
            "`finetune.train_only`: must be old_circuit, mlps, biases, or a list of different",
        ),
        (
            '[base]\npath = "x"\n[finetune]\ntrain_only = "rank_1"\n',
            "`finetune.train_only`: must be old_circuit, mlps, biases, or a list of different",
        ),
        (
            '[base]\npath = "x"\n[finetune]\nmethod = "lora"\ntrain_only = "mlps"\n',
            "cannot be combined with the method lora: use full",
        ),
        (_CONTROLS + 'train_only = "mlps"\n', 'must be a list, such as ["old_circuit", ["a1.h3"'),
        (_CONTROLS + 'train_only = ["everything"]\n', "'everything' is none of these"),
        (_CONTROLS + 'train_only = [["a1.h3", "h3"]]\n', "['a1.h3', 'h3'] is none of these"),
        (_CONTROLS + 'placebos = ["sugar"]\n', "'shuffled_answers', 'old_task' or"),
        (_CONTROLS + 'unrelated = "ioi3"\n', "must be neither the old nor the new task ('ioi3')"),
        ('[base]\npath = "x"\n[finetune]\nplacebo = true\n', "`finetune.placebo`: input should be"),
        ("[base\n", "not valid TOML"),
    ],
)
def test_faults_say_what_is_wrong(tmp_path, text, fault):
    assert fault in _message(tmp_path, text)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(CircuitlapseError, match="--print-config > experiment.toml"):
        read_experiment(tmp_path / "none.toml")


def test_a_binary_file_is_not_read_as_text(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CircuitlapseError, match="cannot be read as text"):
        read_experiment(path)


def test_steps_run_from_the_base_to_the_last():
    text = '[base]\npath = "x"\n[finetune]\nsteps = 20\nsave_every = 8\n'
    experiment = Experiment.model_validate(tomllib.loads(text))
    assert experiment.steps() == [0, 8, 16, 20]


def test_placebos_are_those_of_the_fine_tunes_and_of_the_controls():
    experiment = Experiment.model_validate(
        {
            "base": {"path": "x"},
            "finetune": {"seeds": [1, 0], "placebo": "old_task"},
            "controls": {"placebos": ["old_task", "unrelated_text"], "placebo_seeds": [1, 2]},
        }
    )
    assert [each.label for each in experiment.placebos("default")] == [
        "old_task-0",
        "old_task-1",
        "old_task-2",
        "unrelated_text-1",
        "unrelated_text-2",
    ]
    training_run = experiment.control_runs()[0]
    assert training_run.seed == 1
    assert [each.seed for each in experiment.placebos_for_noise_floor(training_run)] == [1, 0, 2]
    own = experiment.own_placebo(training_run)
    assert own is not None
    assert own.name == "placebo-old-task-seed-1"
    left = experiment.without([own.name, "seed-0"])
    assert left.own_placebo(training_run) is None
    assert [each.seed for each in left.placebos_for_noise_floor(training_run)] == [0, 2]
    assert left.training_runs() == [training_run]
    assert experiment.model_dump() == left.model_dump()  # what was lost enters no hash


def test_controls_are_evaluated_on_prompts_whose_behaviour_is_measured():
    fields = {"base": {"path": "x"}, "controls": {"prompts": 50}}
    assert Experiment.model_validate(fields).control_prompts == 50
    fewer = Experiment.model_validate({**fields, "measure": {"prompts": 24}})
    assert fewer.control_prompts == 24


def test_some_checkpoints_are_patched(tmp_path):
    def exact(patch_at, steps=240):
        experiment = Experiment.model_validate(
            {
                "base": {"organism": "default"},
                "finetune": {"steps": steps},
                "measure": {"patch_at": patch_at},
            }
        )
        return [step for step in experiment.steps() if experiment.measures_in_full(step)]

    assert exact("every") == list(range(0, 241, 8))
    assert exact("ends") == exact(2) == [0, 240]
    assert exact(3) == exact("3") == [0, 8, 240]
    assert exact(8) == [0, 8, 16, 24, 40, 80, 136, 240]
    assert exact(40) == list(range(0, 241, 8))
    assert exact(8, steps=16) == [0, 8, 16]
    assert demo_experiment().measure.patch_at == 8
    for wrong in (1, "some", 2.5, True):
        with pytest.raises(ValueError, match="must be `every`, `ends`, or a number of checkpoints"):
            exact(wrong)
