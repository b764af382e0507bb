"""Training: the epochs and evaluations of a trial, in torch only. It can run in a notebook.

Owns the loop: shuffling, batches, clipping, the metrics, and the content of a checkpoint. It must not know Ray, MLflow,
files or the service, and never reads the test set. Nothing waits for the GPU within an epoch: the metrics stay on the
device and are read once at the end.

On a CPU, an equal spec, seed and number of threads give curves that are equal bit for bit. Neither the state of torch's
global generator nor resuming from checkpoints changes them: shuffling draws from a generator that is saved, each
augmentation and balanced sampling from its own stream of the epoch (`workers.training.random_streams`), and dropout
from torch's global generator, which is seeded for each epoch from the trial's seed and restored afterwards.

Several processes may train one trial as a group (`workers.training.group`), each with a `Training` of its own. All of
them call the same methods with the same arguments, and have the same results except times.
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
from search_spaces.models import PluginModel
from workers.models.build import build_model
from workers.models.inference import Classifier, as_channels
from workers.training.augment import Augmentation, EpochAugmentation
from workers.training.build import build_optimizer
from workers.training.compiled import Compiler
from workers.training.device_images import DeviceImages
from workers.training.epoch_order import EpochOrder
from workers.training.group import Group, Part
from workers.training.precision import ComputeMode
from workers.training.random_streams import random_stream
from workers.training.schedule import Schedule
from workers.training.scores import Batches, Scores, class_weights
from workers.training.whole_batch import over_whole_batches

if TYPE_CHECKING:
    from workers.data.splits import Splits

EVALUATED_PIXELS = {"cpu": 2**18, "cuda": 2**22}  # values in an evaluation batch; larger ones exceed a CPU's cache
MIN_CLEAN_IMAGES = 1000  # smallest sample of training images to measure clean accuracy on


class EpochInterruptedError(Exception):
    """An epoch stopped before its end, on request. The training cannot continue."""


class Training:
    """One trial on one device, or the part of it that is computed there.

    `epoch` is the number of finished epochs. `batch` is the number of finished batches of the current epoch, out of
    `batches`. `best_value` is the best finite value of the objective, reached at `best_epoch` (from 1); they are None
    and 0 until there is one. `diverged` is True after the first loss that is not finite; this raises nothing, and the
    metrics are as measured. `best_right` holds which validation images the best epoch got right, if this object trained
    it; it is on the device, and None otherwise. Pass the `compiler` of the process if it runs further trials.
    `interrupted` is called before each batch; the epoch stops if it returns True. In a `group`, it must return the same
    in all processes.
    """

    def __init__(
        self,
        spec: TrialSpec,
        data: Splits,
        device: torch.device | str = "cpu",
        compiler: Compiler | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        group: Group | None = None,
    ) -> None:
        parameters = spec.hyperparameters
        self.spec, self.device = spec, torch.device(device)
        self.epoch, self.batch = 0, 0
        self.best_value: float | None = None
        self.best_epoch = 0
        self.best_right: Tensor | None = None
        self.diverged = False
        self._interrupted = interrupted
        self._group = group or Group()
        images = data.train_images
        self._classes, self._labels = data.classes, data.train_labels.to(self.device)
        self._validation_labels = data.validation_labels.to(self.device)
        self._mean, self._std = (statistic.to(self.device) for statistic in _input_statistics(spec, data))
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
        self._trained = self._network
        if not self._group.is_alone:
            self._trained = self._group.network(self.model, may_skip=isinstance(parameters.model, PluginModel))
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
        self._order = EpochOrder(data.train_labels, data.classes, self.device, balanced=parameters.balanced_sampling)
        self._class_weights: Tensor | None = None
        if parameters.class_weights == "balanced":
            self._class_weights = class_weights(data.train_labels, data.classes).to(self.device)
        self._distorted = (
            self._augmentation.mixes_labels
            or parameters.label_smoothing > 0
            or parameters.class_weights != "none"
            or parameters.balanced_sampling
        )
        self._images = self._on_device(images, reused=not self._augmentation.changes_images)
        self._validation = self._on_device(data.validation_images, reused=True)
        self._clean = self._sample_of(images, len(data.validation_labels)) if self._distorted else None

    def run_epoch(self) -> dict[str, float]:
        """Train on every training image once, evaluate, and step the schedule. Raises EpochInterruptedError.

        The result has the keys of `search_spaces.protocol.METRICS`, of which `lr` is the rate of the last batch and
        `grad_norm` the mean over batches before clipping, except batches whose step the gradient scaler skipped. Its
        other keys are:

        - epoch;
        - weight_norm: the norm of all weights at the end;
        - update_ratio: the norm of the last step of the epoch, divided by the norm of the weights before it;
        - nonfinite_steps: the share of steps whose loss or gradient was not finite;
        - generalization_gap: training accuracy minus validation accuracy;
        - loss_gap: validation loss minus training loss;
        - validation_top5_accuracy, with more than five classes only;
        - clean_train_accuracy, with mixup, label smoothing, class weights or balanced sampling only: the accuracy on
          unchanged training images. Both gaps are then computed on these images.
        """
        started = time.perf_counter()
        seeded = self._compute.seeded(self.spec.seed * 1_000_003 + self.epoch + 1)
        with seeded, self._compute.algorithms():
            measured = self._train()
            trained = time.perf_counter()
            rate = self.schedule.rate_of_last_batch
            found = self._evaluate(self._validation, self._validation_labels)
            train_loss, train_accuracy = measured["train_loss"], measured["train_accuracy"]
            if self._clean is not None:
                clean = self._evaluate(*self._clean)
                train_loss, train_accuracy = clean.loss, clean.accuracy
                measured["clean_train_accuracy"] = train_accuracy
        self.epoch += 1
        measured |= {
            "validation_loss": found.loss,
            "validation_accuracy": found.accuracy,
            **found.metrics("validation"),
            "generalization_gap": train_accuracy - found.accuracy,
            "loss_gap": found.loss - train_loss,
            "lr": rate,
            "images_per_second": len(self._images) / (trained - started),
            "epoch": float(self.epoch),
        }
        value = measured[self.spec.objective.metric]
        self._record(value, found.right, math.isfinite(measured["train_loss"]) and math.isfinite(found.loss))
        self.schedule.epoch_done(value)
        return measured | {"epoch_seconds": time.perf_counter() - started}

    def evaluate(self, images: Tensor, labels: Tensor) -> Scores:
        """The scores on raw uint8 images [N, C, H, W]; the loss is without label smoothing and class weights."""
        with self._compute.algorithms():
            return self._evaluate(self._on_device(images, reused=False), labels.to(self.device))

    def classifier(self) -> Classifier:
        """A copy for export: on the CPU, in evaluation mode, with the mean and deviation of its input."""
        model = copy.deepcopy(self.model).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return Classifier(model, self._mean.cpu().flatten(), self._std.cpu().flatten()).eval()

    def weights(self) -> dict[str, Any]:
        """Those of the model, for `best.pt`. They are no copy: the next epoch changes them."""
        found: dict[str, Any] = self.model.state_dict()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that the later epochs depend on. It is no copy: the next epoch changes it."""
        return {
            "model": self.weights(),
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
        """Resume from `state`, saved by a training with the same spec and data."""
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._shuffling.set_state(state["generator"].cpu())
        self._scaler.load_state_dict(state["scaler"])
        self.epoch, self.diverged = state["epoch"], state["diverged"]
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]

    def _train(self) -> dict[str, float]:
        """One pass over the training images in a new order. Sums are read from the device at the end."""
        order = self._order.draw(self._shuffling, self._stream)
        augmentation = self._augmentation.epoch(len(order), self._stream)
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        hits: list[Tensor] = []
        parts: list[Part] = []
        self.model.train()
        size = self.spec.hyperparameters.batch_size
        batches = torch.split(order, size)
        batches_for_images = torch.split(self._images.order(order), size)
        with over_whole_batches(self.model, self._group):
            for self.batch, (indices, image_indices) in enumerate(zip(batches, batches_for_images, strict=True)):
                self._raise_if_interrupted()
                part = self._group.part = self._group.divide(len(indices))
                images, targets = self._batch(indices, image_indices, augmentation, part)
                is_last = self.batch == self.batches - 1
                before = [weight.detach().clone() for weight in self._weights] if is_last else None
                loss, logits = self._loss(images, targets, part)
                norms.append(self._step(self._group.weighted(loss)))
                losses.append(loss.detach())
                hits.append(logits.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1)))
                parts.append(part)
                self.schedule.batch_done()
        self.batch = self.batches
        weight_norm = _norm([weight.detach() for weight in self._weights])
        step = [weight.detach() - old for weight, old in zip(self._weights, before or [], strict=True)]
        sizes = torch.tensor([float(len(indices)) for indices in batches])
        # One transfer, which waits until the GPU has computed the epoch.
        results = torch.cat(
            (
                self._group.means(torch.stack(losses).double(), parts),
                torch.stack(norms).double(),
                torch.stack((self._group.joined(hits, parts).double().mean(), weight_norm.double())),
                (_norm(step) / _norm(before or [])).double().reshape(1),
            )
        ).cpu()
        all_losses, all_norms, (accuracy, weights, ratio) = torch.split(results, [len(sizes), len(sizes), 3])
        step_norms = all_norms[all_norms.isfinite()] if self._scaler.is_enabled() else all_norms
        return {
            "train_loss": float((all_losses * sizes).sum() / sizes.sum()),
            "train_accuracy": float(accuracy),
            "grad_norm": float(step_norms.mean()),
            "weight_norm": float(weights),
            "update_ratio": float(ratio),
            "nonfinite_steps": float((~(all_losses.isfinite() & all_norms.isfinite())).double().mean()),
        }

    def _batch(
        self, indices: Tensor, image_indices: Tensor, augmentation: EpochAugmentation, part: Part
    ) -> tuple[Tensor, Tensor]:
        """Network input for a part of a batch, and class indices; if labels are mixed, class probabilities.

        Images are mixed with others of the batch, all of which are prepared then.
        """
        mixes = self._augmentation.mixes_labels
        first, needed = (0, slice(None)) if mixes else (part.start, part.images)
        labels = self._labels.index_select(0, indices[needed])
        if self._augmentation.changes_images:
            start = self.batch * self.spec.hyperparameters.batch_size + first
            images = self._images.normalized(augmentation.change(self._images.unit(image_indices[needed]), start))
        else:
            images = self._images.inputs(image_indices[needed])
        if not mixes:
            return images, labels
        # Mixing commutes with normalization: both are affine, and the shares sum to one.
        images, targets = augmentation.mix(images, functional.one_hot(labels, self._classes).to(torch.float32))
        return images[part.images], targets[part.images]

    def _stream(self, purpose: str) -> torch.Generator:
        return random_stream(self.spec.seed, self.epoch + 1, purpose, self.device)

    def _loss(self, images: Tensor, targets: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """The mean over the part of a batch, and the logits of its images."""
        logits = self._logits(self._trained if part.count > 1 else self._on_one_image, images)
        smoothing = self.spec.hyperparameters.label_smoothing
        if self._class_weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing), logits.detach()
        # Not torch's mean, which divides by the weights of the batch: in small batches, that undoes them.
        weighted = functional.cross_entropy(
            logits, targets, self._class_weights, label_smoothing=smoothing, reduction="sum"
        )
        return weighted / len(images), logits.detach()

    def _logits(self, network: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        """(images, classes), float32. Raises TypeError for what is no such tensor, which a plugin may return."""
        with self._compute.autocast():
            logits = network(images)
        wanted = len(images), self._classes
        if isinstance(logits, Tensor) and tuple(logits.shape) == wanted and logits.is_floating_point():
            return logits.float()
        model = self.spec.hyperparameters.model
        name = f"model plugin {model.name}" if isinstance(model, PluginModel) else f"model {model.kind}"
        got = f"{tuple(logits.shape)}, {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{name} must return logits of shape {wanted}, a float tensor (got {got})")

    def _on_one_image(self, images: Tensor) -> Tensor:
        """A last batch of one image has no batch statistics: batch normalization uses its running statistics."""
        layers = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for layer in layers:
            layer.eval()
        logits: Tensor = self.model(images)
        for layer in layers:
            layer.train()
        return logits

    def _step(self, loss: Tensor) -> Tensor:
        """Compute gradients and take one optimizer step. Returns the gradient's norm before clipping, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._scaler.is_enabled():
            self._scaler.scale(loss).backward()
            self._scaler.unscale_(self.optimizer)
        else:
            loss.backward()
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
    def _evaluate(self, images: DeviceImages, labels: Tensor) -> Scores:
        self.model.eval()
        size = max(16, EVALUATED_PIXELS[self.device.type] // images.values_per_image)
        part = self._group.divide(len(images))
        batches = Batches(self._classes, self._group, part)
        for start in range(part.start, part.stop, size):
            self._raise_if_interrupted()
            stop = min(start + size, part.stop)
            logits = self._logits(self._network, images.inputs_between(start, stop))
            batches.add(logits, labels[start:stop])
        return batches.scores()

    def _raise_if_interrupted(self) -> None:
        if self._interrupted():
            raise EpochInterruptedError

    def _record(self, value: float, right: Tensor, finite: bool) -> None:
        """Update the best value, and whether the trial has diverged."""
        self.diverged = self.diverged or not finite
        if finite and (self.best_value is None or self.spec.objective.is_better(value, self.best_value)):
            self.best_value, self.best_epoch, self.best_right = value, self.epoch, right

    def _on_device(self, images: Tensor, reused: bool) -> DeviceImages:
        return DeviceImages(images, self._mean, self._std, self.device, reused=reused)

    def _sample_of(self, images: Tensor, count: int) -> tuple[DeviceImages, Tensor]:
        """`count` training images or MIN_CLEAN_IMAGES, whichever is more; the same for all trials of an experiment."""
        sample = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.spec.split_seed))
        sample = sample[: max(MIN_CLEAN_IMAGES, count)].sort().values
        return self._on_device(images[sample], reused=True), self._labels[sample.to(self.device)]


def _input_statistics(spec: TrialSpec, data: Splits) -> tuple[Tensor, Tensor]:
    """The mean and deviation of the pixels; 0 and 1 without input normalization."""
    if spec.hyperparameters.input_normalization:
        return as_channels(data.mean), as_channels(data.std)
    return as_channels(torch.zeros_like(data.mean)), as_channels(torch.ones_like(data.std))


def _norm(tensors: list[Tensor]) -> Tensor:
    return nn.utils.get_total_norm(tensors)
