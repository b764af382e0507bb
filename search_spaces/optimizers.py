"""Optimizers: every stock `torch.optim` optimizer that can train Rung's networks with gradients only.

Not LBFGS (evaluates the loss several times a step), SparseAdam (sparse gradients only), Muon (matrices only;
it refuses the weights of convolutions).

Each class names its torch class in `target` and turns itself into that class's keyword arguments.
It must not import torch; `workers.training.build` resolves the target.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from search_spaces.domains import Number, Searchable
from search_spaces.spec import Discriminated, KindShorthand, Spec

Rate = Searchable[Annotated[Number, Field(gt=0, le=100)]]
Fraction = Searchable[Annotated[Number, Field(ge=0, lt=1)]]
NonNegative = Searchable[Annotated[Number, Field(ge=0)]]
Epsilon = Searchable[Annotated[Number, Field(gt=0, le=1)]]
Flag = Searchable[Annotated[bool, Field(strict=True)]]


class OptimizerSpec(Spec):
    """What all optimizers share. `lr` is the base learning rate that the scheduler multiplies."""

    target: ClassVar[str]

    weight_decay: NonNegative = Field(0.0, description="strength of the decay of weights towards zero")
    decay_all: Flag = Field(False, description="also decay biases and normalization parameters")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the torch class, `weight_decay` included (parameter groups may override it)."""
        values = self.model_dump(exclude={"kind", "decay_all"})
        if "beta1" in values:
            values["betas"] = (values.pop("beta1"), values.pop("beta2"))
        return values


class SGD(OptimizerSpec):
    """Minibatch gradient descent; with `momentum`, and `nesterov` to look ahead (course L2 to L4).

    PyTorch keeps v = beta v + g and steps theta -= lr v; the course keeps v = beta v - lr g and steps
    theta += v. The two walk the same path only while lr is constant: after a change of lr, PyTorch
    rescales the whole velocity at once, the course only the gradients still to come.
    Without momentum `nesterov` has no effect, so that a search may draw a momentum of 0.
    """

    target: ClassVar[str] = "torch.optim:SGD"
    kind: Literal["sgd"] = "sgd"
    lr: Rate = 0.1
    momentum: Fraction = 0.9
    nesterov: Flag = True

    def arguments(self) -> dict[str, Any]:
        values = super().arguments()
        return values | {"nesterov": self.nesterov and self.momentum > 0}


class RMSProp(OptimizerSpec):
    """A step per parameter, divided by the root of a running second moment (course L5)."""

    target: ClassVar[str] = "torch.optim:RMSprop"
    kind: Literal["rmsprop"] = "rmsprop"
    lr: Rate = 1e-3
    alpha: Fraction = Field(0.99, description="decay of the second moment; beta_2 of the course")
    eps: Epsilon = 1e-8
    momentum: Fraction = 0.0
    centered: Flag = False


class _Moments(OptimizerSpec):
    """The Adam family: first and second moments."""

    lr: Rate = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Epsilon = 1e-8


class Adam(_Moments):
    """Momentum and RMSProp together, both moments with bias correction (course L6)."""

    target: ClassVar[str] = "torch.optim:Adam"
    kind: Literal["adam"] = "adam"
    lr: Rate = 3e-4
    amsgrad: Flag = False


class AdamW(_Moments):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019)."""

    target: ClassVar[str] = "torch.optim:AdamW"
    kind: Literal["adamw"] = "adamw"
    weight_decay: NonNegative = 0.01
    amsgrad: Flag = False


class NAdam(_Moments):
    """Adam with Nesterov's look-ahead (Dozat, 2016)."""

    target: ClassVar[str] = "torch.optim:NAdam"
    kind: Literal["nadam"] = "nadam"
    lr: Rate = 2e-3
    momentum_decay: NonNegative = 4e-3


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
    """A step per parameter, divided by the root of all squared gradients so far (Duchi et al., 2011)."""

    target: ClassVar[str] = "torch.optim:Adagrad"
    kind: Literal["adagrad"] = "adagrad"
    lr: Rate = 1e-2
    lr_decay: NonNegative = 0.0
    eps: Epsilon = 1e-10


class Adadelta(OptimizerSpec):
    """Running averages of squared gradients and squared steps (Zeiler, 2012)."""

    target: ClassVar[str] = "torch.optim:Adadelta"
    kind: Literal["adadelta"] = "adadelta"
    lr: Rate = 1.0
    rho: Fraction = 0.9
    eps: Epsilon = 1e-6


class Adafactor(OptimizerSpec):
    """The second moment kept as row and column means, steps relative to the weights' size (Shazeer and Stern, 2018)."""

    target: ClassVar[str] = "torch.optim:Adafactor"
    kind: Literal["adafactor"] = "adafactor"
    lr: Rate = 1e-2
    beta2_decay: Searchable[Annotated[Number, Field(ge=-1, le=0)]] = Field(
        -0.8, description="the second moment's decay at step t is 1 - t to this power"
    )
    clip_threshold: Searchable[Annotated[Number, Field(ge=1)]] = Field(
        1.0, description="root mean square of a step above which it is scaled down"
    )

    def arguments(self) -> dict[str, Any]:
        values = super().arguments()
        return values | {"d": values.pop("clip_threshold")}


class ASGD(OptimizerSpec):
    """The steps of averaged stochastic gradient descent (Polyak and Juditsky, 1992), without its average.

    What is evaluated and exported are the weights of the last step, as of every optimizer here: the running
    statistics of batch normalization belong to those, not to averaged weights. What is left is plain gradient descent
    whose rate falls as (1 + lambd lr t) to the power -alpha, and whose weights shrink by lambd.
    """

    target: ClassVar[str] = "torch.optim:ASGD"
    kind: Literal["asgd"] = "asgd"
    lr: Rate = 1e-2
    lambd: NonNegative = 1e-4
    alpha: Fraction = 0.75


class Rprop(OptimizerSpec):
    """Steps from the signs of gradients only (Riedmiller and Braun, 1993); made for large batches.

    `lr` is the first step of every weight; later steps follow the signs, whatever the scheduler says.
    """

    target: ClassVar[str] = "torch.optim:Rprop"
    kind: Literal["rprop"] = "rprop"
    lr: Rate = 1e-2

    def arguments(self) -> dict[str, Any]:
        values = super().arguments()
        values.pop("weight_decay")  # torch.optim.Rprop has none
        return values

    @model_validator(mode="after")
    def _no_decay(self) -> Rprop:
        if self.weight_decay != 0:
            raise PydanticCustomError("rprop_decay", "weight_decay must be 0, because rprop has none")
        return self


Optimizer = Annotated[
    SGD | RMSProp | Adam | AdamW | NAdam | RAdam | Adamax | Adagrad | Adadelta | Adafactor | ASGD | Rprop,
    Discriminated,
    KindShorthand,
]
