"""The root spec: one experiment, and `bind`, which makes a trial's spec of it."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from search_spaces.augmentation import Augmentation, AugmentationSpec
from search_spaces.checkpoint_policy import CheckpointPolicy
from search_spaces.datasets import Dataset, Digits
from search_spaces.domains import Integer, Number, Searchable
from search_spaces.early_stopping import EarlyStopping
from search_spaces.early_stopping.asha import Asha
from search_spaces.models import CNN, Model
from search_spaces.normalization import Batch, Normalization
from search_spaces.objective import Objective
from search_spaces.optimizers import Adam, Optimizer
from search_spaces.replicates import USUAL_SHARE, Finalists
from search_spaces.resources import Budget, Resources
from search_spaces.sampling import (
    NOT_APPLICABLE,
    Sample,
    draw_from,
    flatten,
    parameter_names,
    resolve,
)
from search_spaces.schedulers import Plateau, Scheduler
from search_spaces.searchers import Searcher
from search_spaces.searchers.auto import Auto
from search_spaces.spec import Spec
from search_spaces.upgrade import upgrade

Priority = Annotated[
    Integer,
    Field(
        ge=-100,
        le=100,
        description="Which experiments of a team get slots first: those of the highest priority. It never counts "
        "against another team. People whose experiments have equal priority share the slots evenly; a slot that is "
        "left over goes to the oldest.",
    ),
]
MaxRestarts = Annotated[
    Integer,
    Field(
        ge=0,
        le=100,
        description="Largest number of times that a trial is restarted after a failure that may be temporary (a "
        "lost process or too little memory).",
    ),
]
#: Longest name of an experiment or a project.
MAX_NAME_LENGTH = 128
NAME = r"[A-Za-z0-9][A-Za-z0-9 ._-]*\Z"
BatchSize = Literal[16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


def _valid_name(name: str) -> str:
    if not re.match(NAME, name):
        raise PydanticCustomError(
            "name", "must begin with a letter or digit and contain only letters, digits, spaces, '.', '_' and '-'"
        )
    return name


Label = Annotated[str, Field(min_length=1, max_length=64)]
Name = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME_LENGTH),
    AfterValidator(_valid_name),
    # Of what a person may write: it is trimmed first.
    WithJsonSchema({"type": "string", "pattern": rf"^\s*[A-Za-z0-9][A-Za-z0-9 ._-]{{0,{MAX_NAME_LENGTH - 1}}}\s*$"}),
]
DATASETS: TypeAdapter[Dataset] = TypeAdapter(Dataset)
# Descriptions of fields that the specs of an experiment and of a trial share.
VERSION_TEXT = "Version of the spec's format."
OBJECTIVE_TEXT = "Metric by which trials are compared, and the goal."
MAX_EPOCHS_TEXT = "Number of epochs of a trial that is not stopped early."
EXECUTION_TEXT = "How trials are computed: precision, compilation, determinism."


def _no_flag(value: Any) -> Any:
    """In Python True is 1, in JSON it is not."""
    if isinstance(value, bool):
        raise PydanticCustomError("flag", "must be 2")
    return value


class SearchSpace(Spec):
    """Every hyperparameter: a value, or a domain to draw it from."""

    model: Searchable[Model] = Field(CNN(), description="Network that is trained.")
    optimizer: Searchable[Optimizer] = Field(Adam(), description="Optimizer, with the base learning rate.")
    scheduler: Searchable[Scheduler] = Field(Plateau(), description="How the learning rate changes during a trial.")
    normalization: Searchable[Normalization] = Field(
        Batch(), description="Layer after every convolution and hidden linear layer."
    )
    augmentation: Searchable[Augmentation] = Field(
        AugmentationSpec(),
        description="Random changes to training images; default: the augmentation of the data set. If "
        "you give this block, it replaces the whole default.",
    )
    batch_size: Searchable[BatchSize] = Field(128, description="Number of images of a minibatch.")
    input_normalization: Searchable[Annotated[bool, Field(strict=True)]] = Field(
        True,
        description="Whether images are standardized: minus the mean and divided by the standard deviation of each "
        "channel of the training split.",
    )
    label_smoothing: Searchable[Annotated[Number, Field(ge=0, lt=1)]] = Field(
        0.0, description="Share of each label that is spread evenly over all classes; 0 turns smoothing off."
    )
    gradient_clip_norm: Searchable[Annotated[Number, Field(ge=0)]] = Field(
        0.0, description="Norm of the whole gradient above which it is scaled down; 0 turns clipping off."
    )
    class_weights: Searchable[Literal["none", "balanced"]] = Field(
        "none",
        description="Weights of the classes in the training loss. `balanced`: the fewer training images a class has, "
        "the more each of them counts, so that all classes count the same.",
    )
    balanced_sampling: Searchable[Annotated[bool, Field(strict=True)]] = Field(
        False,
        description="Whether the images of an epoch are drawn with replacement such that all classes are equally "
        "likely; otherwise each training image is used once.",
    )


class Execution(Spec):
    """How trials are computed. These fields do not change the search space."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format on a GPU, where `auto` is bfloat16 if the GPU supports it and otherwise float16; a "
        "CPU always computes in float32.",
    )
    compile: Annotated[bool, Field(strict=True)] = Field(
        False, description="Whether models are compiled by torch.compile, once for each structure."
    )
    deterministic: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="Whether a GPU uses deterministic algorithms only, so that trials repeat bit for bit.",
    )


class TrialSpec(Spec):
    """One configuration without domains: everything that is needed to train it again."""

    version: Literal[2] = Field(2, description=VERSION_TEXT)
    dataset: Dataset = Field(description="Data set that the trial is trained on.")
    hyperparameters: SearchSpace = Field(description="Value of every hyperparameter, without domains.")
    objective: Objective = Field(description=OBJECTIVE_TEXT)
    max_epochs: Annotated[Integer, Field(ge=1)] = Field(description=MAX_EPOCHS_TEXT)
    cpus: Annotated[Integer, Field(ge=1)] = Field(1, description="Number of CPUs.")
    gpus: Annotated[Number, Field(ge=0)] = Field(
        0, description="Number of GPUs: 0 trains on CPUs; a share of one GPU, or a whole number."
    )
    execution: Execution = Field(Execution(), description=EXECUTION_TEXT)
    split_seed: Integer = Field(description="Seed of the validation split, the same for all trials of an experiment.")
    seed: Integer = Field(description="Seed of initialization, shuffling and augmentation.")
    random_streams: Literal[1, 2] = Field(
        1,
        description="How augmentations were drawn when the trial was created: 1 from one random stream shared "
        "with shuffling (only in trials of earlier versions), 2 from one random stream per epoch and augmentation.",
    )

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        return upgrade(data).document

    def trains_as(self, other: TrialSpec) -> bool:
        """Whether a trial of this spec may resume as one of `other`: they differ in `random_streams` at most."""
        return self == other.model_copy(update={"random_streams": self.random_streams})


class ExperimentSpec(Spec):
    """One search. The smallest valid spec is a name."""

    version: Annotated[Literal[2], BeforeValidator(_no_flag)] = Field(2, description=VERSION_TEXT)
    name: Name = Field(description="Name of the experiment; it need not be unique.")
    project: Name = Field("default", description="Name of the project, by which experiments are grouped.")
    description: Annotated[str, Field(max_length=10_000)] = Field(
        "", description="What the experiment is for, in at most 10,000 characters."
    )
    labels: tuple[Label, ...] = Field(
        (), max_length=32, description="Words to find the experiment by, at most 32 of at most 64 characters."
    )
    dataset: Dataset = Field(Digits(), description="Data set that trials are trained on.")
    search_space: SearchSpace = Field(SearchSpace(), description="Values and domains of all hyperparameters.")
    searcher: Searcher = Field(Auto(), description="How values are proposed from the domains, and for how many trials.")
    max_epochs: Annotated[Integer, Field(ge=1, le=10_000)] = Field(20, description=MAX_EPOCHS_TEXT)
    early_stopping: EarlyStopping = Field(Asha(), description="Rule that stops poor trials before `max_epochs`.")
    objective: Objective = Field(Objective(), description=OBJECTIVE_TEXT)
    finalists: Finalists = Field(
        Finalists(max_share=USUAL_SHARE),
        description="The best trials are trained again with fresh seeds once the search is over, because the best of "
        "many trials is partly luck; default: three trials with two seeds, where this takes at most a quarter of the "
        "epochs of the search.",
    )
    resources: Resources = Field(
        Resources(), description="CPUs and GPUs of each trial, and how many trials run at a time."
    )
    budget: Budget = Field(Budget(), description="Limits at which the experiment ends.")
    priority: Priority = 0
    max_restarts: MaxRestarts = 3
    checkpoints: CheckpointPolicy = Field(
        "best",
        description="Checkpoints kept of ended trials: `best` keeps the best epoch of the best trial, `last` also the "
        "last epoch of every trial, and `none` deletes all of them once the winner is registered.",
    )
    execution: Execution = Field(Execution(), description=EXECUTION_TEXT)
    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = Field(
        0, description="Seed of the search, the validation split and every trial."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_augmentation(cls, data: Any) -> Any:
        """Write the dataset's default augmentation into the spec, so that a stored spec is complete."""
        data = upgrade(data).document
        if not isinstance(data, dict) or not isinstance(data.get("search_space", {}), dict | SearchSpace):
            return data
        space = data.get("search_space", {})
        if "augmentation" in (space.model_fields_set if isinstance(space, SearchSpace) else space):
            return data
        try:
            default = DATASETS.validate_python(data.get("dataset", "digits")).usual_augmentation()
        except ValidationError:
            return data  # the dataset is reported with all other problems
        if not default:
            return data
        if isinstance(space, SearchSpace):
            return data | {"search_space": space.model_copy(update={"augmentation": AugmentationSpec(**default)})}
        return data | {"search_space": {**space, "augmentation": default}}

    @property
    def num_samples(self) -> int:
        """Number of trials."""
        return self.searcher.trial_count(self.search_space)

    def bind(self, sample: Sample, number: int = 0) -> TrialSpec:
        """The spec of trial `number` (from 0) with the values of `sample`. Raises ValueError for a bad sample."""
        return TrialSpec(
            dataset=self.dataset,
            hyperparameters=SearchSpace.model_validate(resolve(self.search_space, draw_from(sample))),
            objective=self.objective,
            max_epochs=self.max_epochs,
            cpus=self.resources.cpus_per_trial,
            gpus=self.resources.gpus or 0,
            execution=self.execution,
            split_seed=self.seed,
            seed=_trial_seed(self.seed, number),
            random_streams=2,
        )

    def parameters(self, trial: TrialSpec) -> dict[str, str | float]:
        """Flat hyperparameters of a trial under keys that are the same for all trials of this experiment."""
        values = flatten(trial.hyperparameters.model_dump(mode="json"))
        names = parameter_names(self.search_space) | set(values)
        return {name: values.get(name, NOT_APPLICABLE) for name in sorted(names)}


def _trial_seed(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
