"""The command line `python -m experiments.evaluate weights=... [overrides]`: evaluates weights on any data.

As in `experiments.train`, Hydra composes conf/, and torch is imported only once the settings have been checked.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.config.checks import check_evaluation, check_path
from experiments.config.initial_weights import Init, find_init
from experiments.config.settings import Data, EvaluationConfig, register
from experiments.errors import CONFIGURATION_ERRORS, INTERRUPTED, DataError, SettingsError, is_first, refuse, refusing
from experiments.records.of_weights import run_config
from roadmap.common.bounds import problems
from roadmap.common.files import try_to_write, write
from roadmap.conf import CONF, to_design
from roadmap.designs import Design, DesignError


@hydra.main(config_path=str(CONF), config_name="evaluate", version_base="1.3")
def evaluate_one(config: DictConfig) -> None:
    try:
        check_evaluation(config)
        init = find_init(config.weights)
        assert init is not None  # check_evaluation requires weights
        data = data_of(config, init, HydraConfig.get().overrides.task)
        check_path(data)
        out = Path(config.out) if config.out not in (None, "-") else None
        if out:
            try_to_write(out)  # an evaluation may take hours
        design = design_of(config)
        from experiments.evaluate.results import evaluate_weights, show

        result = evaluate_weights(init, data, config, design)
    except (*CONFIGURATION_ERRORS, DataError) as error:  # here, since Hydra would add a line of its own
        refuse(error, EvaluationConfig)
    if not is_first():
        return
    if config.out == "-":
        print(json.dumps(result))
    else:
        show(result)
    if out:
        write(out, json.dumps(result) + "\n")


def design_of(config: DictConfig) -> Design | None:
    """The design that the settings give, if any."""
    try:
        return to_design(config.design) if config.design else None
    except DesignError as error:
        raise SettingsError(f"design.{error}") from error


def data_of(config: DictConfig, init: Init, overrides: Sequence[str]) -> Data:
    """The data that the settings name; else those that the run was evaluated on, with the settings of `data` that were
    given on the command line.

    Raises:
        SettingsError: if there are neither, or the run's record is impossible.
    """
    if not OmegaConf.is_missing(config.data, "name"):
        return cast(Data, OmegaConf.to_object(config.data))
    run = run_config(init.file) if init.file else None
    if run is None:
        raise SettingsError(
            "set the data to evaluate on, for example data=imagenet data.path=...; only runs have data of their own"
        )
    keys = [field.name for field in fields(Data)]
    recorded = {key: run["data"][key] for key in keys if key in run["data"]}
    given = {key: config.data[key] for key in keys if any(text.startswith(f"data.{key}=") for text in overrides)}
    data = cast(Data, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Data), recorded, given)))
    for name, problem in problems(data):
        raise SettingsError(f"the config.json beside these weights: data.{name} {problem}; set data=...")
    return data


def main() -> None:
    """Exit codes: 0 evaluated, 2 a mistake in the settings or data, 130 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, so that errors are worded in one place
    register()
    try:
        with refusing(EvaluationConfig):
            evaluate_one()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
