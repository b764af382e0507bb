"""Optimizers: every stock `torch.optim` optimizer that can train Rung's networks with gradients only.

Not LBFGS (evaluates the loss several times a step), SparseAdam (sparse gradients only), Muon (matrices only;
it refuses the weights of convolutions).

Each class names its torch class in `target` and turns itself into that class's keyword arguments.
It must not import torch; `workers.training.build` resolves the target.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from search_spaces.domains import Number, Searchable
from search_spaces.spec import Discriminated, KindShorthand, Spec, field_error

Rate = Annotated[
    Searchable[Annotated[Number, Field(gt=0, le=100)]],
    Field(description="Base learning rate, which the scheduler multiplies."),
]
Fraction = Searchable[Annotated[Number, Field(ge=0, lt=1)]]
LARGEST = 1e38  # torch refuses numbers that are infinite in single precision
NonNegative = Searchable[Annotated[Number, Field(ge=0, le=LARGEST)]]
Epsilon = Annotated[
    Searchable[Annotated[Number, Field(gt=0, le=1)]],
    Field(description="Number added to the denominator of a step, for numerical stability."),
]
Flag = Searchable[Annotated[bool, Field(strict=True)]]
AMSGrad = Annotated[
    Flag, Field(description="Whether steps use the largest second moment so far (AMSGrad; Reddi et al., 2018).")
]
DecoupledDecay = Annotated[
    NonNegative,
    Field(
        description="Strength of decoupled weight decay: each step shrinks weights by the share lr x weight_decay "
        "(Loshchilov and Hutter, 2019)."
    ),
]


class OptimizerSpec(Spec):
    """The fields of all optimizers. `lr` is the base learning rate that the scheduler multiplies."""

    target: ClassVar[str]

    weight_decay: NonNegative = Field(
        0.0, description="Strength of weight decay, which adds weight_decay x weight to the gradient; 0 turns it off."
    )
    decay_all: Flag = Field(False, description="Whether biases and normalization parameters decay too.")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the torch class, `weight_decay` included (parameter groups may override it)."""
        values = self.model_dump(exclude={"kind", "decay_all"})
        if "beta1" in values:
            values["betas"] = (values.pop("beta1"), values.pop("beta2"))
        return values


class SGD(OptimizerSpec):
    """Minibatch gradient descent, with momentum and Nesterov momentum.

    Without momentum `nesterov` has no effect, so that a search may draw a momentum of 0.
    """

    target: ClassVar[str] = "torch.optim:SGD"
    kind: Literal["sgd"] = "sgd"
    lr: Rate = 0.1
    momentum: Fraction = Field(0.9, description="Share of the velocity that each step keeps (beta); 0 for no momentum.")
    nesterov: Flag = Field(True, description="Whether to use Nesterov momentum; needs momentum > 0.")

    def arguments(self) -> dict[str, Any]:
        values = super().arguments()
        return values | {"nesterov": self.nesterov and self.momentum > 0}


class RMSProp(OptimizerSpec):
    """The gradient divided by the root of its running second moment, for each parameter."""

    target: ClassVar[str] = "torch.optim:RMSprop"
    kind: Literal["rmsprop"] = "rmsprop"
    lr: Rate = 1e-3
    alpha: Fraction = Field(0.99, description="Decay rate of the second moment.")
    eps: Epsilon = 1e-8
    momentum: Fraction = Field(0.0, description="Share of the velocity that each step keeps; 0 for no momentum.")
    centered: Flag = Field(
        False,
        description="Whether steps are divided by the gradient's standard deviation, not by its root mean square.",
    )


class _Moments(OptimizerSpec):
    """The Adam family: first and second moments."""

    lr: Rate = 1e-3
    beta1: Fraction = Field(0.9, description="Decay rate of the first moment, the running mean of gradients.")
    beta2: Fraction = Field(0.999, description="Decay rate of the second moment, the running size of gradients.")
    eps: Epsilon = 1e-8


class Adam(_Moments):
    """Momentum and RMSProp combined, both moments with bias correction (Kingma and Ba, 2015)."""

    target: ClassVar[str] = "torch.optim:Adam"
    kind: Literal["adam"] = "adam"
    lr: Rate = 3e-4
    amsgrad: AMSGrad = False


class AdamW(_Moments):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    target: ClassVar[str] = "torch.optim:AdamW"
    kind: Literal["adamw"] = "adamw"
    weight_decay: DecoupledDecay = 0.01
    amsgrad: AMSGrad = False


class NAdam(_Moments):
    """Adam with Nesterov's look-ahead (Dozat, 2016)."""

    target: ClassVar[str] = "torch.optim:NAdam"
    #: A larger one is 1 in single precision after a step, and torch divides by zero.
    LARGEST_BETA1: ClassVar[float] = 0.999999
    kind: Literal["nadam"] = "nadam"
    lr: Rate = 2e-3
    momentum_decay: NonNegative = Field(
        4e-3,
        description="Speed at which the momentum grows to beta1: at step t it is beta1 x (1 - 0.5 x 0.96^(t x "
        "momentum_decay)) (Dozat, 2016).",
    )


class RAdam(_Moments):
    """Adam whose early variance is rectified (Liu et al., 2020)."""

    target: ClassVar[str] = "torch.optim:RAdam"
    kind: Literal["radam"] = "radam"


class Adamax(_Moments):
    """Adam with the infinity norm for its second moment (Kingma and Ba, 2015)."""

    target: ClassVar[str] = "torch.optim:Adamax"
    kind: Literal["adamax"] = "adamax"
    lr: Rate = 2e-3


class Adagrad(OptimizerSpec):
    """The gradient divided by the root of the sum of its squares so far, for each parameter (Duchi et al., 2011)."""

    target: ClassVar[str] = "torch.optim:Adagrad"
    kind: Literal["adagrad"] = "adagrad"
    lr: Rate = 1e-2
    lr_decay: NonNegative = Field(
        0.0, description="Speed at which the learning rate falls: at step t it is lr / (1 + (t - 1) x lr_decay)."
    )
    eps: Epsilon = 1e-10


class Adadelta(OptimizerSpec):
    """Running averages of squared gradients and squared steps (Zeiler, 2012)."""

    target: ClassVar[str] = "torch.optim:Adadelta"
    kind: Literal["adadelta"] = "adadelta"
    lr: Rate = 1.0
    rho: Fraction = Field(0.9, description="Decay rate of both running averages (Zeiler, 2012).")
    eps: Epsilon = 1e-6


class Adafactor(OptimizerSpec):
    """The second moment kept as row and column means, steps relative to the weights' size (Shazeer and Stern, 2018)."""

    target: ClassVar[str] = "torch.optim:Adafactor"
    kind: Literal["adafactor"] = "adafactor"
    lr: Rate = Field(
        1e-2,
        description="Largest step relative to the size of the weights, which the scheduler multiplies: step t uses the "
        "smaller of lr and 1 / sqrt(t).",
    )
    weight_decay: DecoupledDecay = 0.0
    beta2_decay: Searchable[Annotated[Number, Field(ge=-1, le=0)]] = Field(
        -0.8,
        description="Power in the decay rate of the second moment, which at step t is 1 - t^beta2_decay (Shazeer and "
        "Stern, 2018).",
    )
    clip_threshold: Searchable[Annotated[Number, Field(ge=1)]] = Field(
        1.0, description="Root mean square of a step above which the step is scaled down."
    )

    def arguments(self) -> dict[str, Any]:
        values = super().arguments()
        return values | {"d": values.pop("clip_threshold")}


class ASGD(OptimizerSpec):
    """The steps of averaged stochastic gradient descent (Polyak and Juditsky, 1992), without its average.

    Rung evaluates and exports the weights of the last step, because the running statistics of batch normalization
    belong to them and not to averaged weights. The result is plain gradient descent whose rate falls as
    (1 + lambd lr t) to the power -alpha, and whose weights shrink by lambd.
    """

    target: ClassVar[str] = "torch.optim:ASGD"
    kind: Literal["asgd"] = "asgd"
    lr: Rate = 1e-2
    lambd: NonNegative = Field(
        1e-4, description="Strength of the decay of weights, and speed at which the learning rate falls (see alpha)."
    )
    alpha: Fraction = Field(
        0.75, description="Exponent of the fall: at step t the learning rate is lr / (1 + lambd x lr x t)^alpha."
    )


class Rprop(OptimizerSpec):
    """Steps from the signs of gradients only (Riedmiller and Braun, 1993); made for large batches.

    `lr` is the first step of every weight; later steps follow the signs and ignore the scheduler.
    """

    target: ClassVar[str] = "torch.optim:Rprop"
    kind: Literal["rprop"] = "rprop"
    lr: Rate = Field(1e-2, description="First step of every weight; the scheduler has no effect on later steps.")
    weight_decay: NonNegative = Field(0.0, description="Must be 0, because Rprop has no weight decay.")

    def arguments(self) -> dict[str, Any]:
        values = super().arguments()
        values.pop("weight_decay")  # torch.optim.Rprop has none
        return values

    @model_validator(mode="after")
    def _no_decay(self) -> Rprop:
        if self.weight_decay != 0:
            raise field_error("weight_decay", "must be 0, because rprop has no weight decay")
        return self


Optimizer = Annotated[
    SGD | RMSProp | Adam | AdamW | NAdam | RAdam | Adamax | Adagrad | Adadelta | Adafactor | ASGD | Rprop,
    Discriminated,
    KindShorthand,
]
