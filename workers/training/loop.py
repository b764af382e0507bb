"""Training: a trial's epochs and evaluations. Pure torch; can be run by hand in a notebook.

Owns the loop: shuffling, batches, clipping, what is measured, what a checkpoint holds. It must not know Ray,
MLflow, files or the service, and never asks for the test set. Inside an epoch nothing waits for the device: what
is measured is kept there and read once at the end.

An equal spec and seed give bit-equal curves on the CPU with equal threads, whatever torch's global
generator did before, and through any number of checkpoints: shuffling draws from a generator that is saved, each
augmentation from its own stream of the epoch (`workers.training.random_streams`), and dropout from torch's global
generator, which is seeded for each epoch from the trial's seed and restored afterwards.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.experiment import TrialSpec
from workers.models.inference import Classifier, as_channels
from workers.training.augment import Augmentation, EpochAugmentation
from workers.training.build import build_model, build_optimizer
from workers.training.compiled import Compiler
from workers.training.device_images import DeviceImages
from workers.training.precision import ComputeMode
from workers.training.random_streams import random_stream
from workers.training.schedule import Schedule

if TYPE_CHECKING:
    from workers.data.splits import Splits

EVALUATED_PIXELS = {"cpu": 2**18, "cuda": 2**22}  # values of an evaluation batch; larger ones leave a CPU's cache
CLEAN_IMAGES = 1000  # at least so many training images are evaluated where clean accuracy is asked for


class EpochInterruptedError(Exception):
    """An epoch was left before its end on request. The training cannot be continued."""


class Training:
    """One trial on one device.

    `epoch` counts finished epochs, and `batch` how many of its `batches` the one under way has trained on.
    `best_value` is the best finite value of the objective, reached at `best_epoch` (from 1); None and 0 before
    there is one. `diverged` turns True with the first loss that is not finite; metrics then hold what was
    measured, and nothing raises. `compiler` is that of the process, where further trials follow. `interrupted`
    is asked before each batch whether to leave the epoch at that point.
    """

    def __init__(
        self,
        spec: TrialSpec,
        data: Splits,
        device: torch.device | str = "cpu",
        compiler: Compiler | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        parameters = spec.hyperparameters
        self.spec, self.device = spec, torch.device(device)
        self.epoch, self.batch = 0, 0
        self.best_value: float | None = None
        self.best_epoch = 0
        self.diverged = False
        self._interrupted = interrupted
        images = data.train_images
        self._classes, self._labels = data.classes, data.train_labels.to(self.device)
        self._validation_labels = data.validation_labels.to(self.device)
        self._mean, self._std = (figures.to(self.device) for figures in _figures(spec, data))
        self._compute = ComputeMode(spec.execution, self.device)

        self._shuffling = torch.Generator(self.device).manual_seed(spec.seed)
        with self._compute.seeded(spec.seed):
            self.model = build_model(
                parameters.model, parameters.normalization, images.shape[1], data.classes, images.shape[-1]
            )
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self._network: Callable[[Tensor], Tensor] = self.model
        if spec.execution.compile:
            structure = f"{parameters.model!r} {parameters.normalization!r} {tuple(images.shape[1:])} {data.classes}"
            self._network = (compiler or Compiler())(self.model, structure)
        self.optimizer = build_optimizer(parameters.optimizer, self.model)
        self.batches = math.ceil(len(images) / parameters.batch_size)
        self.schedule = Schedule(
            parameters.scheduler,
            self.optimizer,
            self.batches,
            spec.max_epochs,
            parameters.optimizer.lr,
            spec.objective.mode,
        )
        self._scaler = self._compute.scaler()
        self._weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

        self._augmentation = Augmentation(parameters.augmentation, images.shape[-1], self.device)
        self._distorted = self._augmentation.mixes_labels or parameters.label_smoothing > 0
        self._images = self._on_device(images, reused=not self._augmentation.changes_images)
        self._validation = self._on_device(data.validation_images, reused=True)
        self._clean = self._sample_of(images, len(data.validation_labels)) if self._distorted else None

    def run_epoch(self) -> dict[str, float]:
        """Train on every training image once, evaluate, step the schedule.

        The keys are those of `search_spaces.protocol.METRICS`, and: epoch; weight_norm, the norm of all
        weights at the end; update_ratio, the norm of the epoch's last step over that of the weights before
        it; nonfinite_steps, the share of steps whose loss or gradient was not finite; generalization_gap, by
        how much training beats validation in accuracy, and loss_gap in loss; and, with mixup or label
        smoothing, clean_train_accuracy on unchanged training images, of which both gaps are then made. `lr` is
        the rate of the last batch, `grad_norm` the mean over batches before clipping, without those whose step
        a gradient scaler left out. Raises EpochInterruptedError.
        """
        started = time.perf_counter()
        drawn = self._compute.seeded(self.spec.seed * 1_000_003 + self.epoch + 1)
        with drawn, self._compute.algorithms():
            measured = self._train()
            trained = time.perf_counter()
            rate = self.schedule.rate_of_last_batch
            loss, accuracy = self._evaluate(self._validation, self._validation_labels)
            fitted_loss, fitted = measured["train_loss"], measured["train_accuracy"]
            if self._clean is not None:
                fitted_loss, fitted = self._evaluate(*self._clean)
                measured["clean_train_accuracy"] = fitted
        self.epoch += 1
        measured |= {
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "generalization_gap": fitted - accuracy,
            "loss_gap": loss - fitted_loss,
            "lr": rate,
            "images_per_second": len(self._images) / (trained - started),
            "epoch": float(self.epoch),
        }
        value = measured[self.spec.objective.metric]
        self._judge(value, math.isfinite(measured["train_loss"]) and math.isfinite(loss))
        self.schedule.epoch_done(value)
        return measured | {"epoch_seconds": time.perf_counter() - started}

    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Mean loss (without smoothing) and accuracy of raw uint8 images [N, C, H, W]."""
        with self._compute.algorithms():
            return self._evaluate(self._on_device(images, reused=False), labels.to(self.device))

    def classifier(self) -> Classifier:
        """A copy for export: on the CPU, in evaluation mode, with the normalization figures inside."""
        model = copy.deepcopy(self.model).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return Classifier(model, self._mean.cpu().flatten(), self._std.cpu().flatten()).eval()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the trial depends on, after an epoch. Not a copy: the next epoch changes it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self._shuffling.get_state(),
            "scaler": self._scaler.state_dict(),
            "epoch": self.epoch,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "diverged": self.diverged,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state` was taken by a training of the same spec and data."""
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._shuffling.set_state(state["generator"].cpu())
        self._scaler.load_state_dict(state["scaler"])
        self.epoch, self.diverged = state["epoch"], state["diverged"]
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]

    def _train(self) -> dict[str, float]:
        """One pass over the training images in a fresh order; sums are read from the device at the end."""
        order = torch.randperm(len(self._images), generator=self._shuffling, device=self.device)
        augmentation = self._augmentation.epoch(len(order), self._stream)
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        hits: list[Tensor] = []
        self.model.train()
        size = self.spec.hyperparameters.batch_size
        batches = torch.split(order, size)
        places = torch.split(self._images.order(order), size)
        for self.batch, (indices, where) in enumerate(zip(batches, places, strict=True)):
            self._leave_if_asked()
            labels = self._labels.index_select(0, indices)
            images, targets = self._batch(where, labels, augmentation)
            before = [weight.detach().clone() for weight in self._weights] if self.batch == self.batches - 1 else None
            loss, logits = self._loss(images, targets)
            norms.append(self._step(loss))
            losses.append(loss.detach())
            hits.append(logits.argmax(1) == (labels if targets.ndim == 1 else targets.argmax(1)))
            self.schedule.batch_done()
        self.batch = self.batches
        weight_norm = _norm([weight.detach() for weight in self._weights])
        step = [weight.detach() - old for weight, old in zip(self._weights, before or [], strict=True)]
        sizes = torch.tensor([float(len(indices)) for indices in batches])
        # One transfer: it waits for the epoch to be computed.
        figures = torch.cat(
            (
                torch.stack(losses).double(),
                torch.stack(norms).double(),
                torch.stack((torch.cat(hits).double().mean(), weight_norm.double())),
                (_norm(step) / _norm(before or [])).double().reshape(1),
            )
        ).cpu()
        all_losses, all_norms, (accuracy, weights, ratio) = torch.split(figures, [len(sizes), len(sizes), 3])
        taken = all_norms[all_norms.isfinite()] if self._scaler.is_enabled() else all_norms
        return {
            "train_loss": float((all_losses * sizes).sum() / sizes.sum()),
            "train_accuracy": float(accuracy),
            "grad_norm": float(taken.mean()),
            "weight_norm": float(weights),
            "update_ratio": float(ratio),
            "nonfinite_steps": float((~(all_losses.isfinite() & all_norms.isfinite())).double().mean()),
        }

    def _batch(self, where: Tensor, labels: Tensor, augmentation: EpochAugmentation) -> tuple[Tensor, Tensor]:
        """Network input, and class indices or, where labels are mixed, class probabilities."""
        if self._augmentation.changes_images:
            start = self.batch * self.spec.hyperparameters.batch_size
            images = self._images.normalized(augmentation.change(self._images.unit(where), start))
        else:
            images = self._images.inputs(where)
        if not self._augmentation.mixes_labels:
            return images, labels
        # Mixing commutes with normalization: both are affine, and the shares sum to one.
        return augmentation.mix(images, functional.one_hot(labels, self._classes).to(torch.float32))

    def _stream(self, purpose: str) -> torch.Generator:
        return random_stream(self.spec.seed, self.epoch + 1, purpose, self.device)

    def _loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        network = self._network if len(images) > 1 else self._on_one_image
        with self._compute.autocast():
            logits = network(images).float()
        smoothing = self.spec.hyperparameters.label_smoothing
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing), logits.detach()

    def _on_one_image(self, images: Tensor) -> Tensor:
        """A last batch of a single image has no batch statistics: batch normalization uses the running ones."""
        layers = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for layer in layers:
            layer.eval()
        logits: Tensor = self.model(images)
        for layer in layers:
            layer.train()
        return logits

    def _step(self, loss: Tensor) -> Tensor:
        """Gradients and one optimizer step; the gradient's norm before clipping, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._scaler.is_enabled():
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self._scaler.unscale_(self.optimizer)
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        largest = self.spec.hyperparameters.gradient_clip_norm
        norm = _norm([weight.grad for weight in self._weights if weight.grad is not None])
        if largest:
            nn.utils.clip_grads_with_norm_(self._weights, largest, norm)
        if self._scaler.is_enabled():
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()
        return norm

    @torch.no_grad()
    def _evaluate(self, images: DeviceImages, labels: Tensor) -> tuple[float, float]:
        self.model.eval()
        size = max(16, EVALUATED_PIXELS[self.device.type] // images.values_per_image)
        losses, hits = [], []
        for start in range(0, len(images), size):
            self._leave_if_asked()
            with self._compute.autocast():
                logits = self._network(images.inputs_between(start, start + size)).float()
            batch = labels[start : start + size]
            losses.append(functional.cross_entropy(logits, batch, reduction="sum"))
            hits.append((logits.argmax(1) == batch).sum())
        loss, hit = torch.stack((torch.stack(losses).sum().double(), torch.stack(hits).sum().double())).tolist()
        return loss / len(images), hit / len(images)

    def _leave_if_asked(self) -> None:
        if self._interrupted():
            raise EpochInterruptedError

    def _judge(self, value: float, finite: bool) -> None:
        self.diverged = self.diverged or not finite
        if finite and (self.best_value is None or self.spec.objective.is_better(value, self.best_value)):
            self.best_value, self.best_epoch = value, self.epoch

    def _on_device(self, images: Tensor, reused: bool) -> DeviceImages:
        return DeviceImages(images, self._mean, self._std, self.device, reused=reused)

    def _sample_of(self, images: Tensor, count: int) -> tuple[DeviceImages, Tensor]:
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.spec.split_seed))
        chosen = chosen[: max(CLEAN_IMAGES, count)].sort().values
        return self._on_device(images[chosen], reused=True), self._labels[chosen.to(self.device)]


def _figures(spec: TrialSpec, data: Splits) -> tuple[Tensor, Tensor]:
    if spec.hyperparameters.input_normalization:
        return as_channels(data.mean), as_channels(data.std)
    return as_channels(torch.zeros_like(data.mean)), as_channels(torch.ones_like(data.std))


def _norm(tensors: list[Tensor]) -> Tensor:
    return nn.utils.get_total_norm(tensors)
