"""Loaders: training batches from worker processes, evaluation batches from threads."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from flexdetr.config import Config
from flexdetr.data.batches import Batch, BatchPlan, Phase, Planner, assemble_batch, fractions
from flexdetr.data.dataset import Record
from flexdetr.data.images import ImageError
from flexdetr.data.record_pixels import read_record
from flexdetr.data.sampling import repeat_factors, samples_of_an_epoch
from flexdetr.data.user_transforms import TransformError
from flexdetr.model.outputs import Targets
from flexdetr.runtime.cpu import cores
from flexdetr.runtime.pool import Pool, Work
from flexdetr.runtime.process import prepare
from flexdetr.tasks import Samples, task

__all__ = ["Batch", "EvaluationLoader", "LoaderError", "TrainingLoader", "default_workers"]

_log = logging.getLogger(__name__)

# Decoded images are kept in memory up to here; a function of the data alone, so that a resumed run decides
# alike.
_CACHE_BYTES = 2 * 1024**3
_EVALUATION_CACHE_BYTES = 1024**3
_MOST_WORKERS = 8
_AHEAD = 2


Made = Batch | ImageError | TransformError


class LoaderError(RuntimeError):
    """A worker process ended by itself; the message names the image that it was working on."""


def default_workers(processes: int = 1) -> int:
    """Loader processes for this machine: what the training itself leaves, at least one.

    ``processes`` are the training processes that share the machine.
    """
    return max(1, min(_MOST_WORKERS, cores() // max(1, processes) - 1))


def start_method() -> str:
    """How worker processes are begun: "fork", "spawn" or "forkserver".

    What the program has chosen with ``multiprocessing.set_start_method``; else they are forked on Linux, where they
    then share the decoded images' memory with this process, and begun as the platform does it elsewhere.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or ("fork" if sys.platform == "linux" else multiprocessing.get_all_start_methods()[0])


class TrainingLoader:
    """Augmented batches, the same for the same seed, whatever the workers, the ranks and the point of resuming.

    Args:
        records: the training images.
        config: ``config.data`` says what is done to them, ``config.image_size`` their size.
        num_classes: size of the head; labels must lie below it.
        batch_size: images of a step over all ranks.
        seed: of everything random.
        workers: processes that make batches; 0 makes them in this one, None takes what the machine has.
        rank: this process among those that share each batch.
        world_size: how many they are.
        pin_memory: hand out batches in page-locked memory, for a GPU.

    Raises:
        ValueError: if there are no records, or a label lies outside the head.
    """

    def __init__(
        self,
        records: Sequence[Record],
        config: Config,
        num_classes: int,
        *,
        batch_size: int,
        seed: int,
        workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if not records or batch_size < 1:
            raise ValueError(
                f"{len(records)} images in batches of {batch_size}: there must be at least one of each"
            )
        highest = max((int(record.labels.max()) for record in records if len(record)), default=-1)
        if highest >= num_classes:
            raise ValueError(f"label {highest} lies outside a head of {num_classes} classes")
        self.workers = default_workers(world_size) if workers is None else workers
        maker = task(config.task).samples(records, config, seed)
        needed = maker.images.cache_bytes()
        cached = needed <= _CACHE_BYTES if config.data.cache is None else config.data.cache
        threshold = config.data.repeat_threshold
        factors = None if threshold is None else repeat_factors(records, threshold)
        self.planner = Planner(
            samples_of_an_epoch(records, threshold),
            batch_size,
            config.image_size,
            seed,
            config.data.multi_scale,
            neighbours=not cached,
            rank=rank,
            world_size=world_size,
            factors=factors,
        )
        self._samples = _Samples(maker, cached, self.workers)
        self._pin_memory = pin_memory
        self._loader: DataLoader[Made] | None = None
        self._plans = _Plans()
        self._stream: Iterator[Made] | None = None  # still makes the epoch that was promised
        self._promised: list[BatchPlan] = []
        _log.debug("%d workers, cache %s (%.0f MB)", self.workers, cached, needed / 1e6)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.planner)

    def epoch(
        self, epoch: int, phase: Phase, *, start_batch: int = 0, following: Phase | None = None
    ) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: counted from 0.
            phase: "mosaic" (mosaic and mixup besides the strong ones), "strong" (distortion, zoom-out, crop, flip)
                or "plain" (flip only, one size).
            start_batch: how many batches to leave out, for an exact resume.
            following: the phase of the next epoch; its first batches are then made while this one's last are used.

        Raises:
            ImageError: if an image cannot be read.
            TransformError: if the user's transforms fail.
            LoaderError: if a worker dies.
        """
        plans = self.planner.epoch(epoch, phase)[start_batch:]
        self._samples.fill()
        if self.workers == 0:
            for plan in plans:
                batch = self._deliver(self._samples[plan])
                yield batch.pin_memory() if self._pin_memory else batch
            return
        stream, promised, self._stream, self._promised = self._stream, self._promised, None, []
        if stream is None or promised != plans:
            stream = self._begin(plans)
        upcoming = self.planner.epoch(epoch + 1, following) if following is not None else []
        self._plans.waiting.extend(upcoming)
        try:
            for done in range(len(plans)):
                made = self._next(stream)
                if made is None:  # the workers had run out of plans before the last ones were added
                    stream = self._begin([*plans[done:], *upcoming])
                    made = self._next(stream)
                yield self._deliver(made)
        except Exception as error:
            # A traceback through torch's iterator holds the workers, and torch waits ten seconds for each where Python
            # collects the two together.
            del stream
            self.close()
            error.__traceback__ = None
            raise
        self._stream, self._promised = stream, upcoming

    def preview(self, epoch: int, phase: Phase, count: int) -> Iterator[Batch]:
        """The first ``count`` samples of an epoch exactly as ``epoch`` yields them, made in this process.

        Yields:
            batches, the last one cut short; fewer samples where the epoch has fewer.

        Raises:
            ImageError: if an image cannot be read.
        """
        self._samples.fill()
        for plan in self.planner.epoch(epoch, phase):
            cut = None if plan.partners is None else plan.partners[:count]
            plan = replace(plan, indices=plan.indices[:count], partners=cut, turns=plan.turns[:count])
            count -= len(plan.indices)
            yield self._deliver(self._samples[plan])
            if not count:
                return

    def in_work(self) -> str:
        """A sentence that names the images that samples are being made of."""
        return self._samples.in_work()

    def close(self) -> None:
        """Ends the worker processes; the next epoch starts new ones."""
        self._stream, self._loader = None, None

    def _begin(self, plans: list[BatchPlan]) -> Iterator[Made]:
        self._plans.waiting = deque(plans)
        if self._loader is None:
            self._loader = self._start()
        return iter(self._loader)

    def _next(self, stream: Iterator[Made]) -> Made | None:
        try:
            return next(stream, None)
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise LoaderError(f"{error}. {self._samples.in_work()}{self._hint()}") from (
                error.with_traceback(None)
            )

    def _hint(self) -> str:
        """What ends workers that are spawned before they have begun: they import the script that trains."""
        if start_method() == "fork":
            return ""
        return '. A script that trains must do so under `if __name__ == "__main__":`, since its workers import it'

    def _start(self) -> DataLoader[Made]:
        sampler: Any = (
            self._plans
        )  # torch declares batch samplers to yield lists, but takes whatever they yield
        collate: Any = _same
        if start_method() != "fork":
            self._samples.maker.images.kept.share()
        return DataLoader(
            self._samples,
            batch_sampler=sampler,
            num_workers=self.workers,
            collate_fn=collate,
            worker_init_fn=_prepare_worker,
            persistent_workers=True,
            prefetch_factor=_AHEAD,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # else each epoch would draw from the global generator
            multiprocessing_context=start_method(),
        )

    @staticmethod
    def _deliver(made: Made | None) -> Batch:
        if isinstance(made, Batch):
            return made
        if made is None:
            raise LoaderError("the loader's workers ended without a batch")
        raise made


class _Plans:
    """The batch sampler: hands each waiting plan to whichever worker is next."""

    def __init__(self) -> None:
        self.waiting: deque[BatchPlan] = deque()

    def __iter__(self) -> Iterator[BatchPlan]:
        while self.waiting:
            yield self.waiting.popleft()


class _Samples(Dataset[Made]):
    """Makes batches from plans; lives in this process and, as a copy, in each worker."""

    def __init__(self, maker: Samples, cached: bool, workers: int) -> None:
        self.maker, self.cached, self.filled = maker, cached, False
        # Each worker notes the record that it works on, for the message should it die there.
        self.seen = multiprocessing.get_context(start_method()).RawArray("q", [-1] * max(1, workers))

    def fill(self) -> None:
        """Decodes all images once, before any worker is started, where they are to be kept."""
        if not self.cached or self.filled:
            return
        paths = [record.path for record in self.maker.records]
        with Pool(default_workers() + 1, "flexdetr-cache") as pool:
            for _ in pool.map(
                self.maker.images.keep, range(len(paths)), what=lambda index: str(paths[index])
            ):
                pass  # the results matter only for what they raise
        self.filled = True

    def __getitem__(self, plan: BatchPlan) -> Made:
        """The batch, or why there is none: what a worker raises would come wrapped in its traceback."""
        worker = get_worker_info()
        slot = worker.id if worker else 0

        def observe(index: int) -> None:
            self.seen[slot] = index

        try:
            return assemble_batch(self.maker, plan, forget=not self.cached, observe=observe)
        except (ImageError, TransformError) as error:
            return error.with_traceback(None)
        except Exception as error:
            error.add_note(f"while making a sample of {self.maker.records[self.seen[slot]].path}")
            raise
        finally:
            self.seen[slot] = -1

    def __getitems__(self, plan: BatchPlan) -> Made:
        """Torch's loader hands over what the batch sampler gave."""
        return self[plan]

    def in_work(self) -> str:
        """A sentence that names the images that the workers are, or were, making samples of."""
        paths = [str(self.maker.records[index].path) for index in self.seen if index >= 0]
        return f"Images in work: {', '.join(paths) or 'none'}"


def _prepare_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which ends its workers
    signal.signal(signal.SIGTERM, _go_on_once)
    if hasattr(os, "nice"):
        os.nice(5)  # the training's threads wait for each other: better that a batch ahead waits


def _go_on_once(_number: int, _frame: object) -> None:
    """Schedulers send SIGTERM to every process of a job at once, and the step that is under way still needs batches.

    The training process ends its workers when it has saved: the second signal does.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _same(batch: Made) -> Made:
    return batch


class EvaluationLoader:
    """Batches of images exactly as prediction sees them: each resized to exactly the network's size.

    Images are read by threads; where all prepared ones fit into a gigabyte they are kept for the next
    evaluation.

    Args:
        records: the images.
        image_size: (height, width) of the network's input.
        batch_size: images of a batch; the last one may have fewer.
        workers: threads; None takes what the machine has.
        rank: this process among those that share the batches; whole batches are dealt out in turn, so that each
            image is computed beside the same others whatever the number of processes.
        world_size: how many they are.
        pin_memory: hand out batches in page-locked memory, for a GPU.
    """

    def __init__(
        self,
        records: Sequence[Record],
        image_size: tuple[int, int],
        batch_size: int,
        workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.records, self.image_size, self.batch_size = tuple(records), image_size, batch_size
        self.starts = range(rank * batch_size, len(self.records), batch_size * world_size)
        self.threads = max(1, default_workers() + 1 if workers is None else workers)
        channels = self.records[0].form.channels if self.records else 3
        keep = channels * image_size[0] * image_size[1] * len(self.records) <= _EVALUATION_CACHE_BYTES
        self._kept: dict[int, Tensor] | None = {} if keep else None
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Batches of a pass, of this process."""
        return len(self.starts)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the order of the records.

        Raises:
            ImageError: if an image cannot be read.
            PoolError: if none was read for too long.
        """
        waiting: deque[tuple[int, list[Work[Tensor]]]] = deque()
        with Pool(self.threads, "flexdetr-evaluate") as pool:
            for start in self.starts:
                records = self.records[start : start + self.batch_size]
                works = [pool.submit(str(one.path), self._image, start + i) for i, one in enumerate(records)]
                waiting.append((start, works))
                if len(waiting) > _AHEAD:
                    yield self._batch(pool, *waiting.popleft())
            while waiting:
                yield self._batch(pool, *waiting.popleft())

    def _image(self, index: int) -> Tensor:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        image = torch.from_numpy(prepare(read_record(self.records[index]), self.image_size))
        if self._kept is not None:
            self._kept[index] = image
        return image

    def _batch(self, pool: Pool, start: int, images: list[Work[Tensor]]) -> Batch:
        records = self.records[start : start + len(images)]
        boxes = [
            torch.from_numpy(fractions(record.boxes_xyxy, (record.height, record.width)))
            for record in records
        ]
        labels = [torch.from_numpy(np.asarray(record.labels)) for record in records]
        ids = [record.image_id for record in records]
        sizes = torch.tensor([[record.height, record.width] for record in records], dtype=torch.int64)
        stacked = torch.stack([pool.result(image) for image in images])
        batch = Batch(stacked, Targets(labels, boxes, list(ids)), sizes, ids)
        return batch.pin_memory() if self._pin_memory else batch
