"""A mistake on the command line costs a second and one line that says what is right; a right one is never bent."""

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import roadmap
from roadmap.conf import OURS

MISTAKES = [  # what was typed, what the line must say
    # a name that is not there: the nearest that is
    ("design.kernal_size=5", "'kernal_size' in 'design'; did you mean 'kernel_size'?"),
    ("desing.width=8", "'desing.width'; did you mean 'design'?"),
    ("epochs=3", "'epochs'; did you mean 'recipe.epochs'?"),
    ("foo=1", "there is no setting 'foo'"),
    ("+foo=1", "there is no setting 'foo'"),
    ("+design.foo=1", "there is no setting 'foo' in 'design'"),
    ("+recipe.epoch=1", "'epoch' in 'recipe'; did you mean 'epochs'?"),
    ("+data.foo=1", "there is no setting 'foo' in 'data'"),
    ("regime.drop_pth=0.2", "there is no setting 'drop_pth' in 'regime'"),
    ("hydra.launcher.job=3", "there is no setting 'hydra.launcher.job'"),
    ("step=[patchify_stm]", "unknown step 'patchify_stm'; did you mean 'patchify_stem'?"),
    ("rung=gleu", "unknown rung 'gleu'; did you mean 'gelu'?"),
    ("rung=", "unknown rung ''"),
    ("regime=resnet51", "unknown regime 'resnet51'; did you mean 'resnet50'?"),
    (
        "regime.name=resnet51",
        "regime.name must be one of imagenet_short, nano, resnet200, resnet50, small, not",
    ),
    ("recipe=modren", "unknown recipe 'modren'; did you mean 'modern'?"),
    ("data=fashion_mist", "unknown data 'fashion_mist'; did you mean 'fashion_mnist'?"),
    ("rung=[gelu,resnet]", "rung takes one name; with -m, rung=A,B trains a run of each"),
    ("study=null", "study=null: study takes a name (add_one_in, "),
    ("rung=null", "rung=null: rung takes a name (resnet, "),
    ("hydra/launcher=null", "hydra/launcher=null: hydra/launcher takes a name; for none, leave it out"),
    ("step=[null]", "step=[null]: step takes a name"),
    ("step={gelu:1}", "step={gelu:1}: step takes a name"),
    ("-m rung=gelu,null", "rung=gelu,null: rung takes a name"),
    ("study=ends", "; to name your own runs: study_name=ends"),
    ("+study=ladder", "study is chosen twice"),
    ("recipe.ema=0.9", "the setting 'recipe.ema' is called 'recipe.ema_decay' now"),
    ("regime.ema=0.9", "the setting 'regime.ema' is called 'regime.ema_decay' now"),
    ("regime.full_regularization=null", "is called 'regime.scale_regularization' now"),
    ("regime.widths.start=16", "regime.widths.start can't be set for single runs"),
    ("full_epochs=30", "set it in a recipe of your own, DIR/recipe/NAME.yaml, and add --config-dir DIR"),
    ("design.norms=one", "the setting 'design.norms' is called 'design.norm_placement' now"),
    ("device_batch=128", "the setting 'device_batch' is called 'micro_batch_size' now"),
    ("study=laddr", "unknown study 'laddr'; did you mean 'ladder'?"),
    ("design=convnext_tinny", "unknown design 'convnext_tinny'; did you mean 'convnext_tiny'?"),
    ("model=timm:resnext50_32x4", "'resnext50_32x4'; did you mean 'resnext50_32x4d'?"),
    ("model=resnet50", "'resnet50'; did you mean timm:resnet50?"),
    ("hydra/launcher=loca", "unknown hydra/launcher 'loca'; did you mean 'local'? (known: basic, local, slurm)"),
    # a value that can't be
    ("design.stem=patchfy", "design.stem must be 'resnet' or 'patchify', not 'patchfy'; did you mean 'patchify'?"),
    ("design.kernel_size=4", "design.kernel_size must be odd to keep the map's size, not 4; try 3 or 5"),
    ("design.width=abc", "design.width=abc: "),
    ("design.groups=3", "design.groups=3 do not divide the 8 channels"),
    ("design.depths=[1,2,3]", "design.depths must be four positive integers"),
    ("recipe.lr=-1", "recipe.lr must be in [0, 1e30], not -1.0"),
    ("recipe.optimizer=adam", "must be sgd, adamw or timm:NAME, not 'adam'; did you mean 'timm:adam'?"),
    ("recipe.warmup=abc", "recipe.warmup must be a fraction of the run like 20/300, not 'abc'"),
    ("recipe.mixup=0.8 recipe.batch_size=63", "must be even, not 63 (recipe.batch_size=63"),
    ("data.holdout=1.5", "data.holdout must be in [0, 1), not 1.5"),
    ("data.subset=0", "data.subset must be in (0, 1], not 0.0"),
    ("device=cudo", "device must be auto or cpu or cuda or mps, not 'cudo'; did you mean 'cuda'?"),
    ("logger=wanb", "unknown logger 'wanb'; did you mean 'wandb'?"),
    ("logger=wandb logger.mode=onlin", "must be auto or online or offline, not 'onlin'; did you mean 'online'?"),
    ("logger=wandb logger.project=a/b", "logger.project must be 1 to 128 characters, none of / \\ # ? % :, not 'a/b'"),
    ("logger=wandb logger.project=", "logger.project must be 1 to 128 characters"),
    ("logger=wandb +logger.team=me", "there is no setting 'team' in 'logger' (known: project, entity, mode)"),
    ("logger=wandb logger.mod=auto", "there is no setting 'mod' in 'logger'; did you mean 'mode'?"),
    ("logger=wandb logger.mode=[auto]", "logger.mode: "),
    ("logger=wandb logger.entity=???", "logger.entity is not set, and experiments.tracking.wandb.Wandb needs it"),
    ("logger.mode=offline", "there is no setting 'mode' in 'logger' before one is chosen: logger=NAME"),
    (
        "logger._target_=my.Class",
        "logger._target_=my.Class needs the module my, which is neither in the current folder",
    ),
    ("logger._target_=json.Decoder", "logger._target_=json.Decoder cannot be imported: AttributeError: module 'json'"),
    ("logger._target_=Class", "logger._target_=Class cannot be imported: ValueError: Empty module name"),
    ("logger._target_=json.dumps", "logger._target_=json.dumps is not a class"),
    (
        "logger._target_=json.JSONDecoder",
        "json.JSONDecoder is not a logger: it has no method 'start' (docs/tracking.md)",
    ),
    ("logger=[wandb,none]", "logger takes one name"),
    ("seed=-1", "seed must be in [0, 2^63), not -1"),
    ("seed=9223372036854775808", "seed must be in [0, 2^63), not 9223372036854775808"),
    ("recipe.eps=-1", "recipe.eps must be in [0, 1], not -1.0"),
    ("recipe.betas=[2,3]", "recipe.betas must be in [0, 1), not 2"),
    ("recipe.betas=[0.9]", "recipe.betas must be 2 to 3 values, not [0.9]"),
    ("recipe.gamma=nan", "recipe.gamma must be in (0, 1], not nan"),
    ("recipe.warmup='1e-999999999'", "recipe.warmup must be a fraction of the run like 20/300"),
    ("threads=2147483648", "threads must be in [1, 4096], not 2147483648"),
    ("runs=", "runs must be text on one line, not empty, not ''"),
    ("study_name=", "study_name must be a name of 1 to 128 printable characters, not ''"),
    ("recipe.rand_augment=rand-m9999", "recipe.rand_augment must be like rand-m9-mstd0.5-inc1, not 'rand-m9999'"),
    ("recipe.milestones=[[[1]]]", "recipe.milestones must be a fraction of the run like 20/300"),
    ("recipe.milestones=${seed}", "recipe.milestones must be a list, not 0"),
    ("recipe.rand_augment=rand-foo", "timm knows no 'foo' there"),
    ("recipe.optimizer=timm:lam", "recipe.optimizer must be one of timm's, not 'lam'; did you mean 'lamb'?"),
    ("recipe.optimizer=timm:adahessian", "it needs second derivatives"),
    (
        "recipe.optimizer=timm:nesterov recipe.momentum=0",
        "recipe.optimizer=timm:nesterov refuses its settings: Nesterov momentum",
    ),
    ("recipe.optimizer=timm:adan", "timm:adan takes 3 recipe.betas, not [0.9, 0.999]"),
    ("device=cuda", "device=cuda is not available here; take device=auto"),
    # what contradicts itself or can't be read
    ("recipe.min_lr=1", "recipe.min_lr=1.0 is more than recipe.lr=0.05"),
    ("recipe.warmup=1", "recipe.warmup=1 is the whole run"),
    ("recipe.milestones=[2/3,1/3]", "recipe.milestones must rise, like [30/90, 60/90]"),
    ("recipe.mixup_switch_prob=0.7", "chooses between mixup and cutmix, and mixup is off"),
    ("recipe.betas=[0.9,0.9,0.9]", "recipe.betas must be two numbers"),
    ("compile=true gradient_checkpointing=true", "compile=true can't trace gradient_checkpointing=true"),
    ("step=[kernel_5,kernel_7]", "steps kernel_5 and kernel_7 contradict each other"),
    ("rung=gelu rung=kernel_7", "rung is chosen twice; name it once"),
    (
        "design=convnext_tiny step=[gelu]",
        "design=convnext_tiny is a whole network, which takes no rung or step",
    ),
    ("road.steps=[gelu]", "road.steps follows from rung= and step=; set that instead"),
    ("-m road=convnext,convnext_v2", "road=convnext,convnext_v2: a study is of one road"),
    ("-m rung=glob(nothing*)", "rung=glob(nothing*) matches no rung of the road convnext"),
    ("-m study=ladder,sections", "study=ladder,sections: study takes one name"),
    ("-m seed=glob(*)", "the sweep has no runs"),
    ("hydra.searchpath=null", "hydra.searchpath takes a list"),
    ("road=convnex", "unknown road 'convnex'; did you mean 'convnext'?"),
    ("rung=separate_downsampling road=convnext_v3", "unknown road 'convnext_v3'; did you mean 'convnext_v2'?"),
    ("step=[a", "cannot read the override 'step=[a'"),
    ("-m seed=0,1 runs=/dev/null", "/dev/null/studies: Not a directory"),
    ("hydra/launcher=slurm", "hydra/launcher=slurm launches studies, also of one run; add -m"),
    ("rung=gelu,kernel_7", "rung=gelu,kernel_7 asks for several runs; add -m"),
    ("study=ladder", "study=ladder asks for several runs; add -m"),
    # in one job of a study: before any is trained
    ("-m rung=gelu,kernal_7", "unknown rung 'kernal_7'; did you mean 'kernel_7'?"),
    ("-m step=[gelu],[gleu]", "unknown step 'gleu'; did you mean 'gelu'?"),
    ("-m design.width=16,0", "design.width must be a positive integer, not 0"),
    ("-m step=[gelu],[kernel_5,kernel_7]", "steps kernel_5 and kernel_7 contradict each other"),
    ("-m rung=kernel_7,kernel_9 step=[kernel_5]", "steps kernel_5 and kernel_7 contradict each other"),
    ("-m study=orderings orders=0", "orders must be in [1, 1000], not 0"),
    ("-m seed=0,abc", "seed=abc: "),
    ("-m seed=0,1 hydra.launcher.jobs=-1", "hydra.launcher.jobs must be in [1, 100_000], not -1"),
    ("-m seed=0 hydra.launcher.runs_per_gpu=2 hydra.launcher.gpus_per_run=2", "runs share a GPU, or a run has several"),
    (
        "-m hydra/launcher=slurm hydra.launcher.runs_per_job=2 hydra.launcher.nodes=2",
        "each of a job's runs is trained by one process",
    ),
    ("-m hydra/launcher=slurm hydra.launcher.runs_per_gpu=2", "the runs of a job share its GPUs; give it several runs"),
    ("-m seed=0 hydra.launcher.gpus_per_run=0", "hydra.launcher.gpus_per_run must be in [1, 100_000], not 0"),
    ("-m seed=0 hydra/launcher=slurm hydra.launcher.nodes=0", "hydra.launcher.nodes must be in [1, 100_000], not 0"),
    ("-m seed=0 hydra/launcher=slurm hydra.launcher.timeout_min=2", "is no less than the whole of"),
    ("-m seed=0 hydra/launcher=slurm hydra.launcher.tasks_per_node=2", "trains on a GPU of its own"),
    (
        "-m seed=0 hydra/launcher=slurm hydra.launcher.gpus_per_node=0 device=cuda",
        "device=cuda needs hydra.launcher.gpus",
    ),
]


@pytest.mark.parametrize(("typed", "expected"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_mistake_is_reported_in_one_line(
    typed: str, expected: str, command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "experiments.launch.worker", None)  # no run may get as far as to import it
    monkeypatch.delattr("experiments.launch.local.LocalStudy.train")
    code, out, err = command(*typed.split())
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert (code, out) == (2, "")
    assert not list(here.glob("runs/*"))


def test_help_and_mistakes_need_no_torch(here: Path) -> None:
    code = """if True:
        import sys
        from experiments.train import main
        for arguments in (["--help"], ["step=[gelo]"], ["design.stem=foo"], ["-m", "rung=gelu", "seed=0,-1"]):
            sys.argv = ["experiments.train", *arguments]
            try:
                main()
            except SystemExit as end:
                print(arguments, end.code, file=sys.stderr)
        print("torch" in sys.modules, file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("error: ") == done.stderr.count(" 2\n") == 3
    assert done.stderr.endswith("\nFalse\n")


def test_help_names_every_group_and_study(command: Callable) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for group in ("data", "design", "logger", "recipe", "regime", "road", "step", "study"):
        assert f"\n{group}: {', '.join(OURS.options(group))}\n" in out
    assert f"\nrung: {', '.join(OURS.road().names)} (of road=convnext)\n" in out


def test_command_works_from_any_directory(launch: Callable) -> None:
    """conf/ and the launcher are found from where neither lies."""
    process = launch("--cfg", "all", "rung=gelu", "seed=5")
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "_target_: hydra_plugins.study.LocalLauncher" in out
    assert "activation: gelu" in out
    assert "\nseed: 5\n" in out


@pytest.mark.parametrize("seed", range(2))
def test_order_of_steps_never_changes_the_run(seed: int, run_of: Callable) -> None:
    rng = random.Random(seed)
    kernels = [name for name in OURS.options("step") if name.startswith("kernel_")]
    rest = [name for name in OURS.options("step") if name not in kernels]
    steps = [*rng.sample(rest, rng.randint(2, len(rest))), rng.choice(kernels)]
    runs = [run_of(f"step=[{','.join(rng.sample(steps, len(steps)))}]") for _ in range(3)]
    assert len({run.identity for run in runs}) == 1
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50"])
def test_named_design_is_the_network_of_that_name(name: str, run_of: Callable) -> None:
    """With either recipe, apart from what the recipe sets."""
    original = run_of(f"design={name}", "regime=resnet50")
    assert original.design == roadmap.design(name)
    modern = run_of(f"design={name}", "regime=resnet50", "recipe=modern")
    assert replace(modern.design, drop_path=0, init="kaiming", layer_scale=0) == replace(
        roadmap.design(name), init="kaiming", layer_scale=0
    )
    assert modern.design.drop_path == 0.1
