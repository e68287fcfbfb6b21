"""Whether a model still says what it said when it was written: its stored prompts, run again.

Writers of artifacts call `record_prompts` on what lies on disk; `Engine.open` calls `require_match`
at each start, `slipstream verify` shows what `compare` finds. One step of a few rows is run: with
the kernels and options of the writer every bit must agree, on whatever instruction set (decision
2); with others the top logits must lie within a tolerance that was measured when it was written.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch, Program
from slipstream.backends.native_module import native_module
from slipstream.checkpoint.prompts import Numerics, StoredPrompt, StoredPrompts, read_prompts
from slipstream.engine.loading import compile_program
from slipstream.engine.options import EngineOptions, Settings, resolve
from slipstream.errors import ArtifactError
from slipstream.machine import forced_isa, machine
from slipstream.models.load import load
from slipstream.models.model import Model
from slipstream.models.weights import Weights

Logits = NDArray[np.float32]

TEXTS = ("The capital of France is", "def add(a, b):\n    return", "Once upon a time, there was a")
IDS = 5  # tokens of each: three prompts fill one tile of rows
TOP = 8
SPREAD = 2.0  # the tolerance, in differences between the served form and the exact one
LEAST_TOLERANCE = 0.01
# What pages of codes add where the writer had others: twice the largest difference of a top
# logit on SmolLM2 and stories260K (lab/2026-11-21-attention.md).
KV_TOLERANCE = {"int8": 0.8, "k8v4": 2.3, "int4": 6.3}


@dataclass(frozen=True)
class Finding:
    """One prompt: the largest difference among its top logits, and whether all bits agree."""

    difference: float
    same_bits: bool
    allowed: float  # 0: every bit has to agree

    @property
    def passed(self) -> bool:
        """Whether the model may be served."""
        return self.same_bits or (self.allowed > 0 and self.difference <= self.allowed)


def record_prompts(folder: Path) -> str:
    """The text of `prompts.json` for the model in `folder`, run as it will be served.

    The tolerance is twice what int8 inputs and bfloat16 keys change, or 0.01 if that is more.
    """
    model = load(folder)
    served = _settings(model, EngineOptions(keep_packed=False))
    exact = replace(served, activations="f32", kv_dtype="float32")
    prompts = [prompt_ids(model, text) for text in TEXTS]
    logits = last_logits(compile_program(model, served), prompts)
    truth = last_logits(compile_program(model, exact), prompts)
    top = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    apart = np.take_along_axis(np.abs(logits - truth), top, axis=1).max()
    tolerance = max(LEAST_TOLERANCE, SPREAD * float(apart))
    stored = [_stored(ids, row, best) for ids, row, best in zip(prompts, logits, top, strict=True)]
    return StoredPrompts(numerics_of(served), tolerance, tuple(stored)).to_text()


def require_match(model: Model, program: Program, settings: Settings) -> None:
    """ArtifactError unless the program gives the model's stored prompts the logits it should.

    Models without stored prompts, and those whose weights are not their files', pass.
    """
    weights = model.weights
    if not isinstance(weights, Weights) or weights.checkpoint is not model.checkpoint:
        return
    stored = read_prompts(model.checkpoint.path)
    if stored is None:
        return
    findings = compare(program, stored, numerics_of(settings))
    failed = [number for number, one in enumerate(findings, 1) if not one.passed]
    if failed:
        worst = max(finding.difference for finding in findings)
        raise ArtifactError(
            f"{model.name} does not answer its stored prompts as it did when it was written "
            f"(prompt {failed[0]} of {len(findings)}; a top logit is off by {worst:.3g}): its "
            "files were changed or damaged. `slipstream verify` says which; copy the artifact "
            "again, or serve it all the same with --no-verify"
        )


def compare(program: Program, stored: StoredPrompts, numerics: Numerics) -> list[Finding]:
    """One finding for each stored prompt. ArtifactError if they do not fit the model."""
    _check_ids(program, stored)
    allowed = 0.0 if stored.numerics.same_bits(numerics) else stored.tolerance
    if stored.numerics.kv_dtype != numerics.kv_dtype:
        allowed += KV_TOLERANCE.get(numerics.kv_dtype, 0.0)
    logits = last_logits(program, [prompt.ids for prompt in stored.prompts])
    findings = []
    for row, prompt in zip(logits, stored.prompts, strict=True):
        apart = np.abs(row[list(prompt.top_ids)] - np.asarray(prompt.top_logits, np.float32)).max()
        difference = float(apart) if np.isfinite(row).all() else np.inf
        findings.append(Finding(difference, _digest(row) == prompt.sha256, allowed))
    return findings


def last_logits(program: Program, prompts: Sequence[Sequence[int]]) -> Logits:
    """float32 [S, V]: after the last token of each prompt, all in one step."""
    ends = np.cumsum([len(ids) for ids in prompts]).astype(np.int32)
    pages = -(-max(map(len, prompts)) // PAGE_SIZE)
    batch = Batch(
        ids=np.concatenate([np.asarray(ids, np.int32) for ids in prompts]),
        row_starts=np.concatenate([[0], ends]).astype(np.int32),
        lengths=np.zeros(len(prompts), np.int32),
        pages=np.arange(len(prompts) * pages, dtype=np.int32).reshape(len(prompts), pages),
        logit_rows=ends - 1,
    )
    return program.step(batch, program.new_kv(len(prompts) * pages))


def prompt_ids(model: Model, text: str) -> tuple[int, ...]:
    """The first tokens of a text; the vocabulary's own where a tokenizer has none for it."""
    ids = model.tokenizer.encode(text, special=True)[:IDS]
    return tuple(ids) or tuple(range(min(IDS, model.graph.vocabulary)))


def numerics_of(settings: Settings) -> Numerics:
    """What decides bits under these settings, on this machine."""
    if settings.backend != "native":
        return Numerics(settings.backend, "", settings.activations, settings.kv_dtype)
    isa = forced_isa() or native_module().isa_available()[-1]
    return Numerics(kernels_hash(), str(isa), settings.activations, settings.kv_dtype)


@lru_cache(maxsize=1)
def kernels_hash() -> str:
    """SHA-256 of the extension module, shortened: other code may add in another order."""
    path = Path(str(getattr(native_module(), "__file__", "")))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _settings(model: Model, options: EngineOptions) -> Settings:
    return resolve(options, model.graph, machine())


def _stored(ids: tuple[int, ...], row: Logits, best: NDArray[np.intp]) -> StoredPrompt:
    top = tuple(int(i) for i in best)
    return StoredPrompt(ids, top, tuple(float(row[i]) for i in top), _digest(row))


def _digest(row: Logits) -> str:
    return hashlib.sha256(np.ascontiguousarray(row, "<f4").tobytes()).hexdigest()


def _check_ids(program: Program, stored: StoredPrompts) -> None:
    vocabulary, context = program.graph.vocabulary, program.graph.context
    for prompt in stored.prompts:
        highest = max(*prompt.ids, *prompt.top_ids)
        if highest >= vocabulary or len(prompt.ids) > context:
            raise ArtifactError("the stored prompts are not of this model: copy the artifact again")
