"""`Answerer`: a loaded checkpoint, which encodes a clip once and answers any number of questions about it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mirasol.answer.attribution import attention_weights, eager_twin
from mirasol.answer.checkpoint import folder_of, load_checkpoint, load_temperature
from mirasol.answer.generation import (
    GeneratedAnswer,
    generate_answers,
    label_log_probabilities,
    of_clips,
    rounds,
    token_limit,
    with_answers,
)
from mirasol.answer.known_questions import KnownQuestions
from mirasol.answer.ranking import Ranking, score_rows
from mirasol.chunks import MirasolCollator
from mirasol.chunks.text import IGNORED_LABEL, TokenRows, pad_text
from mirasol.media import Clip
from mirasol.media.reader import DECODERS
from mirasol.model.modeling_mirasol_outputs import MirasolEncoderOutput
from mirasol.model.modeling_mirasol_stream import MirasolStreamCache

CHUNKS_AT_ONCE = 256  # the attention mask grows with the square of the chunks: 28 GB for an hour of 0.32 s
Source = Clip | str | Path | bytes | Mapping[str, Tensor]  # a mapping: the result of `chunk_clip`


@dataclass(frozen=True)
class Watched:
    """Latents of a batch of clips; `encoder_outputs` is a `MirasolEncoderOutput`."""

    encoder_outputs: Any

    def __len__(self) -> int:
        return len(self.encoder_outputs.chunk_mask)

    def __getitem__(self, clip: int) -> "Watched":
        return Watched(of_clips(self.encoder_outputs, [clip]))

    def __iter__(self):
        return (self[clip] for clip in range(len(self)))


def join_watched(clips: Sequence[Watched]) -> Watched:
    """Join separately watched clips into a batch; shorter clips are padded with masked chunks."""
    if len(clips) == 1:
        return clips[0]
    outputs = [clip.encoder_outputs for clip in clips]
    names = ("last_hidden_state", "chunk_mask", "chunk_times", "projected")
    present = [name for name in names if all(output.get(name) is not None for output in outputs)]
    rows = {name: [row for output in outputs for row in output[name]] for name in present}
    return Watched(type(outputs[0])(**{name: pad_sequence(rows[name], batch_first=True) for name in present}))


@dataclass(frozen=True)
class Prompts:
    """Token rows of one clip's questions: one row per question or, with options, one per option."""

    rows: TokenRows
    options: tuple[tuple[str, ...], ...] = ()


Questions = Prompts | Sequence[str]


class Answerer:
    """Model and processor of a checkpoint, which answer questions about clips; threads may share it.

    Args:
        model: A `MirasolForConditionalGeneration` in evaluation mode.
        processor: Its `MirasolProcessor`.
        max_new_tokens: Limit of an answer; by default the checkpoint's, else the rest of the context.
        temperature: Divides the logits for the confidence of generated answers, but not for the answers.
        known_questions: Questions that the checkpoint was trained on, if it stores them.
    """

    def __init__(
        self, model, processor, max_new_tokens: int | None = None, temperature: float = 1.0,
        known_questions: KnownQuestions | None = None,
    ):  # fmt: skip
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.temperature, self.known_questions = temperature, known_questions

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | None = None,
        device: Any = None,
        max_new_tokens: int | None = None,
        decoder: str | None = None,
        sampling: str | None = None,
        max_chunks: int | None = None,
        dtype: str | None = None,
    ) -> "Answerer":
        """Return the answerer of a checkpoint's folder, or of the shipped one.

        Args:
            checkpoint: Its folder, or "shipped".
            device: Such as "cpu", "cuda:1" or "mps"; by default a CUDA device where there is one.
            max_new_tokens: Limit of an answer.
            decoder: Decoder of media files; by default the checkpoint's.
            sampling: Policy for clips longer than `max_chunks`: `uniform`, `snippets` or `dense`; by default the
                checkpoint's.
            max_chunks: Largest number of chunks of a clip; by default the checkpoint's.
            dtype: Type of the weights: "float32" (default), "bfloat16" or "float16".
        """
        if decoder not in (None, *DECODERS):
            raise ValueError(f"Expected decoder to be one of {DECODERS}, found {decoder!r}. Leave it out to use PyAV.")
        model, processor = load_checkpoint(checkpoint, device, dtype)
        processor.decoder = decoder or processor.decoder
        processor.sampling = sampling or processor.sampling
        processor.max_chunks = max_chunks or processor.max_chunks
        processor.grid.plan(0.0, processor.sampling)  # raises for an unknown policy
        folder = folder_of(checkpoint)
        return cls(model, processor, max_new_tokens, load_temperature(folder), KnownQuestions.load(folder))

    def warnings(self, question: str) -> list[str]:
        """Return a warning if the question is unlike every training question that the checkpoint stores, else none."""
        found = self.known_questions.warning(question) if self.known_questions else None
        return [found] if found else []

    @torch.no_grad()
    def watch(self, *clips: Source, use_video: bool = True, use_audio: bool = True) -> Watched:
        """Return the latents of clips: files, decoded clips, or the chunk inputs of clips."""
        tracks = {"use_video": use_video, "use_audio": use_audio}

        def chunks(clip: Source) -> Mapping[str, Tensor]:
            if isinstance(clip, Mapping):
                return clip
            if not isinstance(clip, Clip):
                clip = self.processor.read_clip(clip, **tracks)
            return self.processor.chunk_clip(clip, **tracks)

        batch = MirasolCollator(self.processor.pad_token_id)([chunks(clip) for clip in clips])
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        encode = self.model.get_encoder() if batch["chunk_times"].shape[1] <= CHUNKS_AT_ONCE else self._encode_long
        return Watched(encode(**batch))

    @torch.no_grad()
    def project(self, watched: Watched) -> Watched:
        """Return clips with the decoder's keys and values of their latents, which every question then shares."""
        outputs = watched.encoder_outputs
        latents = outputs.last_hidden_state.unflatten(1, (-1, self.model.config.num_latents))
        projected = self.model.model.decoder.project(latents)
        return Watched(type(outputs)(**{**outputs, "projected": projected}))

    def _encode_long(self, video_chunk_index, audio_chunk_index=None, **media: Tensor) -> MirasolEncoderOutput:
        """Encode long clips block by block, as a stream does, in bounded memory; the latents are equal."""
        outputs, cache = [], MirasolStreamCache()
        for start in range(0, media["chunk_times"].shape[1], CHUNKS_AT_ONCE):
            block = {name: value[:, start : start + CHUNKS_AT_ONCE] for name, value in media.items()}
            for track in ("video", "audio"):
                block[f"{track}_chunk_index"] = block[f"{track}_chunk_mask"].flatten().nonzero().flatten()
            outputs.append(self.model.get_encoder()(**block, stream_cache=cache))
            cache = outputs[-1].stream_cache
        kept = [name for name, value in outputs[0].items() if name != "stream_cache" and value is not None]
        whole: dict[str, Any] = {name: torch.cat([output[name] for output in outputs], dim=1) for name in kept}
        return MirasolEncoderOutput(**whole)

    def prompts(self, questions: Sequence[str], options: Sequence[Sequence[str]] | None = None) -> Prompts:
        """Tokenise questions, with the options of each if given.

        Raises:
            ValueError: A row exceeds the context, or a question has fewer than two options.
        """
        if options is None:
            return Prompts(self.processor.tokenize_questions(list(questions)))
        for question, choices in zip(questions, options, strict=True):
            if len(choices) < 2:
                raise ValueError(
                    f"Expected at least two options to rank, found {len(choices)} for {question!r}. Give more, or "
                    "generate the answer instead."
                )
        asked = [question for question, choices in zip(questions, options, strict=True) for _ in choices]
        rows = self.processor.tokenize_questions(asked, [option for choices in options for option in choices])
        return Prompts(rows, tuple(map(tuple, options)))

    @torch.no_grad()
    def advance(self, stream_cache: Any, chunks: Sequence[Mapping[str, Tensor]]) -> Any:
        """Encode the next chunks of each stream; the output's `stream_cache` holds the latents to ask about."""
        batch = MirasolCollator(self.processor.pad_token_id)(chunks)
        return self.model.advance(stream_cache, **{name: value.to(self.model.device) for name, value in batch.items()})

    @torch.no_grad()
    def answer(
        self, watched: Watched, questions: Sequence[Questions], streamer: Any = None
    ) -> list[list[GeneratedAnswer]]:
        """Return one greedy answer per question of each clip; clips may have different numbers of questions.

        A transformers `streamer` receives the tokens as they are generated. An answer that was cut because of a longer
        question in its batch is generated again, alone and without the streamer.
        """
        limit = self.max_new_tokens

        def generate(
            clips: Sequence[int], rows: Sequence[Sequence[int]], streamer: Any = None
        ) -> list[GeneratedAnswer]:
            outputs, text = of_clips(watched.encoder_outputs, clips), self._pad(rows)
            return generate_answers(self.model, self.processor, outputs, text, limit, streamer, self.temperature)

        prompts = [self._prompts(of_clip).rows["decoder_input_ids"] for of_clip in questions]
        answers: list[list[GeneratedAnswer]] = [[] for _ in prompts]
        for clips, places in rounds([len(rows) for rows in prompts]):
            picked = [prompts[clip][min(place, len(prompts[clip]) - 1)] for clip in clips for place in places]
            given = iter(generate(clips, picked, streamer))
            for clip in clips:
                answers[clip] += list(islice(given, len(places)))[: len(prompts[clip]) - places.start]
        for clip, rows in enumerate(prompts):
            for place, row in enumerate(rows):
                cut = answers[clip][place]
                if cut.is_cut and len(cut.token_ids) < token_limit(self.model, self.processor, len(row), limit):
                    (answers[clip][place],) = generate([clip], [row])
        return answers

    @torch.no_grad()
    def confidences(
        self, watched: Watched, questions: Questions, given: Sequence[GeneratedAnswer], temperatures: Sequence[float]
    ) -> list[list[float]]:
        """Return the confidence [answer temperature] of one clip's answers, which `answer` generated."""
        text = with_answers(self._pad(self._prompts(questions).rows["decoder_input_ids"]), given)
        labels = text.pop("labels")
        logits = self.model(encoder_outputs=watched.encoder_outputs, **text, use_cache=False).logits
        sums = torch.stack([label_log_probabilities(logits / value, labels).sum(1) for value in temperatures], dim=1)
        return (sums / (labels != IGNORED_LABEL).sum(1, keepdim=True)).exp().tolist()

    @torch.no_grad()
    def rank(self, watched: Watched, prompts: Sequence[Prompts]) -> list[list[Ranking]]:
        """Return one ranking of the options per question of each clip."""
        rows = [of_clip.rows for of_clip in prompts]
        found = score_rows(self.model, watched.encoder_outputs, rows, self.processor.pad_token_id)
        rankings = []
        for of_clip, scores in zip(prompts, found, strict=True):
            lengths = [sum(label != IGNORED_LABEL for label in labels) for labels in of_clip.rows["labels"]]
            entries = zip(scores, lengths, strict=True)
            of_questions = []
            for options in of_clip.options:
                pairs, counts = zip(*islice(entries, len(options)), strict=True)
                of_questions.append(Ranking(options, tuple(total for total, _ in pairs), counts))
            rankings.append(of_questions)
        return rankings

    @torch.no_grad()
    def score(self, watched: Watched, questions: Sequence[str], answers: Sequence[str]) -> list[tuple[float, bool]]:
        """Return each answer's log-probability for one clip, and whether greedy decoding would generate it."""
        rows = self.processor.tokenize_questions(list(questions), list(answers))
        return score_rows(self.model, watched.encoder_outputs, [rows], self.processor.pad_token_id)[0]

    def attribute(
        self, watched: Watched, questions: Sequence[Questions], given: Sequence[Sequence[GeneratedAnswer]]
    ) -> list[Tensor]:
        """Return cross-attention weights (question chunk) for each clip, averaged over the tokens of its answers.

        `given` are the answers that `answer` generated for the questions.
        """
        shares = []
        for clip, of_clip, answers in zip(watched, questions, given, strict=True):
            text = with_answers(self._pad(self._prompts(of_clip).rows["decoder_input_ids"]), answers)
            shares.append(attention_weights(self._twin, clip.encoder_outputs, text))
        return shares

    def attribute_together(
        self, watched: Watched, questions: Sequence[Questions], given: Sequence[GeneratedAnswer]
    ) -> Tensor:
        """Return cross-attention weights [clip chunk] for one question per clip, in one call."""
        rows = [self._prompts(of_clip).rows["decoder_input_ids"][0] for of_clip in questions]
        return attention_weights(self._twin, watched.encoder_outputs, with_answers(self._pad(rows), given))

    @cached_property
    def streaming(self) -> "Answerer":
        """Answerer for streams of constant memory: with a window of `max_chunks` chunks if the config has none.

        It shares the weights. Its `watch` and its streams give the same latents for the same media.
        """
        config = self.model.config
        if None not in (config.temporal_config.window_chunks, config.text_config.window_chunks):
            return self
        shared = [*self.model.parameters(), *self.model.buffers()]
        model = copy.deepcopy(self.model, {id(part): part for part in shared})
        for part in (model.config.temporal_config, model.config.text_config):
            part.window_chunks = part.window_chunks or self.processor.max_chunks
        return Answerer(model, self.processor, self.max_new_tokens, self.temperature, self.known_questions)

    @cached_property
    def _twin(self):
        return eager_twin(self.model)

    def _prompts(self, questions: Questions) -> Prompts:
        return questions if isinstance(questions, Prompts) else self.prompts(questions)

    def _pad(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        padded = pad_text({"decoder_input_ids": rows}, self.processor.pad_token_id)
        return {name: value.to(self.model.device) for name, value in padded.items()}
