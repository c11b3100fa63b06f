"""What a run may do, and rarely is meant to: said before the first round."""

from collections.abc import Iterator

from fedx_core.base import cores
from fedx_core.base.config import ExperimentConfig
from fedx_core.learning.training import pick_device
from fedx_core.methods.base import Method
from fedx_core.objectives.base import Objective
from fedx_core.rounds.setting import Data
from fedx_core.wire.messages import ServerState


def lines(settings: ExperimentConfig, data: Data) -> list[str]:
    """Say what is allowed and rarely meant, a line each."""
    return [*_too_few_rounds(settings), *_small_clients(settings, data), *_in_vain(settings)]


def _too_few_rounds(settings: ExperimentConfig) -> list[str]:
    """Say where a run ends before its method has done what it is for."""
    method: Method = settings.method.build("methods")
    ends, name = settings.federation.rounds, settings.method.name
    later = range(ends, ends + 10_000)
    done = (r for r in later if not method.to_come(ServerState(round_index=r, model={})))
    takes = next(done, ends)
    if takes == ends:
        return []
    return [
        f"the run ends after round {ends}, before {name} has done all that its settings say, which "
        f"takes {takes} rounds; raise federation.rounds, or have it begin earlier "
        "(docs/parameters.md lists its settings)"
    ]


def _small_clients(settings: ExperimentConfig, data: Data) -> list[str]:
    """Say where clients have less than a batch."""
    size, epochs = settings.training.batch_size, settings.training.epochs
    small = [count for count in data.clients.values() if count < size]
    if not small:
        return []
    most = max(small)
    images = str(most) if most == min(small) else f"{min(small)} to {most}"
    return [
        f"{len(small)} of {len(data.clients)} clients have fewer training images ({images}) than "
        f"training.batch_size ({size}), so each trains {epochs} step(s) a round, one an epoch; "
        f"if scores stay low, lower it, as in --set training.batch_size={_smaller(most)}"
    ]


def _smaller(images: int) -> int:
    """Return a power of two that makes about eight batches of some images, 4 to 64."""
    return max(4, min(64, 1 << max(images // 8, 1).bit_length() - 1))


def _in_vain(settings: ExperimentConfig) -> Iterator[str]:
    """Say which settings do nothing beside the others, or the contrary of what they are for."""
    training, federation = settings.training, settings.federation
    objective: Objective = training.objective.build("objectives")
    method: Method = settings.method.build("methods")
    of_labels = {
        "label_smoothing": training.label_smoothing > 0,
        "class_weights": training.class_weights != "none",
    }
    for name, is_set in of_labels.items():
        if is_set and not objective.needs_labels:
            yield (
                f"training.{name} does nothing: objective {training.objective.name} looks at no "
                "labels; leave it out, or choose the objective supervised"
            )
    if settings.recovery.name != "none" and not method.parts.pruner.prunes:
        yield (
            f"recovery {settings.recovery.name} does nothing: it mends what pruning has changed, "
            f"and {settings.method.name} prunes nothing; leave it out, or choose a method or a "
            "method.pruner that does"
        )
    if federation.grace and not federation.round_timeout:
        yield (
            f"federation.grace does nothing: it is {federation.grace:g} seconds beyond "
            "round_timeout, and rounds without one wait for ever; set round_timeout, or leave "
            "grace out"
        )
    on_cpu = pick_device(training.device).type == "cpu"
    if training.cpu_amp and on_cpu and cores.sixteen_bits() is False:
        yield (
            "training.cpu_amp: this machine's processor does not compute in 16 bits by itself, and "
            "takes several times as long with it; leave it out, unless clients train elsewhere"
        )
