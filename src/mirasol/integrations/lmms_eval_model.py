"""`lmms-eval --model mirasol`: answers its tasks whose media are video or sound files.

Imports lmms-eval, which cannot be an extra (it asks for torchvision): docs/lmms_eval.md says how to install it.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from mirasol.answer.answerer import Answerer, Watched


class Mirasol(lmms):
    """Model of lmms-eval: greedy answers and log-likelihoods; requests about one file share its latents.

    Args:
        pretrained: The checkpoint's folder; by default the shipped one.
        device: By default CUDA where there is one.
        use_audio, use_video: False leaves that track out.
        batch_size: Must be 1, because clips are answered one by one, each with all its questions.
    """

    is_simple = True

    def __init__(
        self, pretrained: str | None = None, device: str | None = None, use_audio: bool = True, use_video: bool = True,
        batch_size: int = 1, **unknown: Any,
    ):  # fmt: skip
        super().__init__()
        unknown = {name: value for name, value in unknown.items() if name != "max_batch_size"}  # lmms-eval's own
        if unknown:
            raise ValueError(
                f"Expected model_args out of pretrained, device, use_audio, use_video, found {', '.join(unknown)}. "
                "Leave them out."
            )
        if int(batch_size) != 1:
            raise ValueError(
                f"Expected batch_size 1, found {batch_size}: clips are answered one by one. Leave it out."
            )
        local = int(os.environ.get("LOCAL_RANK", "0"))  # of several processes, each has a GPU of its own
        device = device or (f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu")
        self.answerer = Answerer.load(pretrained, device)
        self.tracks = {"use_audio": use_audio, "use_video": use_video}

    @property
    def device(self) -> torch.device:
        """Device of the counts that lmms-eval's processes exchange."""
        return self.answerer.model.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return one greedy answer per request, cut before the first of its `until` strings."""

        def answer(watched: Watched, asked: Sequence[tuple]) -> list[str]:
            if any(options.get("do_sample") or options.get("temperature") for _, options, *_ in asked):
                warnings.warn("Mirasol answers greedily here; the task's sampling options are not used.", stacklevel=2)
            (given,) = self.answerer.answer(watched, [[context for context, *_ in asked]])
            return [cut(one.text, options.get("until")) for one, (_, options, *_) in zip(given, asked, strict=True)]

        return self._answer(requests, answer)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Return (loss, is greedy) per request: minus the log-probability of its continuation as the whole answer,
        with the end token, and whether greedy decoding gives it.

        It is the loss because lmms-eval takes the choice with the smallest number, and wrapped because its evaluator
        (0.7.3) converts a bare tuple to a string.
        """

        def answer(watched: Watched, asked: Sequence[tuple]) -> list[GenerationResult]:
            targets = [target if isinstance(target, str) else target(self._doc(rest)) for _, target, *rest in asked]
            scores = self.answerer.score(watched, [context for context, *_ in asked], [t.strip() for t in targets])
            return [GenerationResult((-total, is_greedy)) for total, is_greedy in scores]

        return self._answer(requests, answer)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raise NotImplementedError, because a Mirasol question stands alone."""
        raise NotImplementedError("Mirasol answers single questions: choose a task without several rounds.")

    def _answer(self, requests: list[Instance], answer) -> list:
        by_clip: dict[tuple, list[int]] = {}
        for place, request in enumerate(requests):
            by_clip.setdefault(tuple(map(str, self._visuals(request.args))), []).append(place)
        results: list = [None] * len(requests)
        for places in tqdm(by_clip.values(), desc="Mirasol", unit="clip", disable=self.rank != 0):
            clip = self._read(self._visuals(requests[places[0]].args))
            given = answer(self.answerer.watch(clip, **self.tracks), [requests[place].args for place in places])
            for place, result in zip(places, given, strict=True):
                results[place] = result
                self.cache_hook.add_partial(requests[place].request_type, requests[place].args[:2], result)
        return results

    def _doc(self, rest: Sequence) -> dict:
        """Return the task's document of a request, whose arguments end with (doc_to_visual, doc_id, task, split)."""
        _, doc_id, task, split = rest
        return self.task_dict[task][split][doc_id]

    def _visuals(self, arguments: tuple) -> list:
        return list(arguments[-4](self._doc(arguments[-4:])))

    def _read(self, visuals: list):
        if len(visuals) != 1 or not isinstance(visuals[0], str):
            kinds = ", ".join(type(visual).__name__ for visual in visuals) or "none"
            raise ValueError(
                f"Expected the path of one video or sound file for a question, found {kinds}. Choose a task whose "
                "doc_to_visual gives a path."
            )
        return self.answerer.processor.read_clip(visuals[0], **self.tracks)


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """Return the text before the first of these strings."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.split(stop)[0] if stop else text
    return text.strip()
