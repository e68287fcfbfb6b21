"""adapter_config.json, as PEFT writes it: which adapters are served, and the scale of each part.

`checkpoint.peft` reads the file through this. Whatever changes what an adapter computes and is not
served is refused by name, also fields that a newer PEFT may add; what only matters to training is
passed over.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.errors import AdapterError, UnsupportedError

MOST_RANK = 1024
MOST_PATTERNS = 10_000

# Fields that do not change what a finished adapter computes (tensor names say where it applies).
_PASSED_OVER = {
    "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout",
    "fan_in_fan_out", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip
_READ = {
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern",
    "bias", "init_lora_weights",
}  # fmt: skip
_REFUSED = {
    "use_dora": "DoRA adapters are not served; merge it into the model instead",
    "modules_to_save": "it replaces whole modules (modules_to_save); merge it into the model",
    "trainable_token_indices": "it retrains embeddings of tokens; merge it into the model",
    "lora_bias": "its low-rank matrices have biases (lora_bias), which are not served",
    "layer_replication": "it replicates layers, which is not served",
    "alora_invocation_tokens": "activated LoRA is not served",
    "target_parameters": "it targets bare parameters (target_parameters), which are not served",
    "use_qalora": "QALoRA is not served",
    "use_bdlora": "block-diagonal LoRA is not served",
    "arrow_config": "Arrow routing is not served",
}
# Other ways to begin change the base weights too (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA): the file
# alone is not the whole adapter then. PEFT converts such adapters when told so as it saves.
_INITIAL = (None, True, False, "gaussian", "eva", "orthogonal")
_LITERAL = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True)
class PeftConfig:
    """Ranks and scales. A pattern is a module's name, or the end of it after a dot."""

    rank: int
    alpha: float
    rank_stabilized: bool
    rank_patterns: Mapping[str, int]
    alpha_patterns: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """The rank that the config promises for a module."""
        return _matched(self.rank_patterns, module, self.rank)

    def scale_of(self, module: str) -> float:
        """alpha / rank; alpha / sqrt(rank) for rank-stabilized adapters (arXiv 2312.03732)."""
        rank = self.rank_of(module)
        alpha = _matched(self.alpha_patterns, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def parse_config(values: Mapping[str, Any]) -> PeftConfig:
    """Checks a whole config. UnsupportedError for what is not served, AdapterError for nonsense."""
    _refuse(values)
    rank = _rank(values.get("r"), "r")
    alpha = _alpha(values.get("lora_alpha", 8), "lora_alpha")
    stabilized = values.get("use_rslora") or False
    if not isinstance(stabilized, bool):
        raise AdapterError("use_rslora in adapter_config.json must be true or false")
    ranks = {key: _rank(value, key) for key, value in _patterns(values, "rank_pattern")}
    alphas = {key: _alpha(value, key) for key, value in _patterns(values, "alpha_pattern")}
    return PeftConfig(rank, alpha, stabilized, ranks, alphas)


def _refuse(values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise UnsupportedError(f"only LoRA adapters are served, not peft_type {_short(kind)}")
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        task = _short(values["task_type"])
        raise UnsupportedError(f"only adapters of causal language models are served, not {task}")
    if values.get("bias", "none") != "none":
        raise UnsupportedError("the adapter retrains biases; merge it into the model instead")
    if values.get("init_lora_weights") not in _INITIAL:
        how = _short(values["init_lora_weights"])
        raise UnsupportedError(
            f"an adapter that began as {how} changes the base weights too; save it with "
            "`path_initial_model_for_weight_conversion`, or merge it into the model"
        )
    for name, value in values.items():
        if name in _PASSED_OVER or name in _READ or _is_off(value):
            continue
        reason = _REFUSED.get(name, f"its config sets {_short(name)}, which is not known here")
        raise UnsupportedError(f"the adapter is not served: {reason}")


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ([], {}, "")


def _patterns(values: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    patterns = values.get(name) or {}
    if not isinstance(patterns, dict) or len(patterns) > MOST_PATTERNS:
        raise AdapterError(f"{name} in adapter_config.json must be an object")
    for key in patterns:
        if not _LITERAL.fullmatch(key):  # a regular expression of a stranger may run for ever
            raise UnsupportedError(
                f"{name} has the regular expression {_short(key)}; write the modules' names out"
            )
    return list(patterns.items())


def _matched(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that is the module's name or an end of it."""
    for key, value in patterns.items():
        if module == key or module.endswith(f".{key}"):
            return value
    return default


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 1 <= value <= MOST_RANK:
        raise AdapterError(
            f"{_short(name)} in adapter_config.json must be a rank in 1…{MOST_RANK}, "
            f"not {_short(value)}"
        )
    return value


def _alpha(value: Any, name: str) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not abs(value) < 1e9:
        raise AdapterError(
            f"{_short(name)} in adapter_config.json must be a number, not {_short(value)}"
        )
    return float(value)


def _short(value: Any) -> str:
    return repr(value)[:60]
