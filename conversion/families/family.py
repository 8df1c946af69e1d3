"""What a family is: its config fields, its weights, and how its names vary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conversion.rules import Names, Rule
from tsjax.errors import ConfigError, ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conversion.fields import Fields
    from tsjax.model.config import EncoderConfig

# Fields of every Hugging Face config, from version 2 to 5, that cannot change what the encoder computes.
HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _name_or_path
    _num_labels architectures attn_implementation bos_token_id cls_token_id decoder_start_token_id dtype eos_token_id
    export_model_type finetuning_task gradient_checkpointing id2label label2id language mask_token_id model_max_length
    name_or_path num_labels output_attentions output_hidden_states output_past prefix problem_type return_dict
    sep_token_id task_specific_params tf_legacy_loss tie_weights_ tie_word_embeddings tokenizer_class torch_dtype
    torchscript transformers.js_config transformers_version use_bfloat16 use_cache

    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length max_new_tokens min_length no_repeat_ngram_size num_assistant_tokens
    num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    """.split()
)

# Fields of every Hugging Face config that would change it, and the values under which they do not.
REQUIRED: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "auto_map": (),  # foreign code
    "cross_attention_hidden_size": (),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "tie_encoder_decoder": (False,),
}

# More is a damaged config; the table of weights has a row for each layer.
MOST_LAYERS = 1000

# Hugging Face's names of activations; "gelu" there is the exact form.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Family:
    """One architecture, as data.

    Attributes:
        model_type: what config.json calls it.
        encoder: reads the fields that it uses and says the architecture in our words.
        rules: the weights of an architecture.
        names: how names in files vary.
        harmless: fields of this family that cannot change a vector, besides `HARMLESS`.
        required: fields of this family that must have one of these values, besides `REQUIRED`.
    """

    model_type: str
    encoder: Callable[[Fields], EncoderConfig]
    rules: Callable[[EncoderConfig], tuple[Rule, ...]]
    names: Names
    harmless: frozenset[str] = frozenset()
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def translate(self, fields: Fields) -> EncoderConfig:
        """The architecture that a config.json describes, every field of it accounted for.

        Raises:
            ConversionError: a field is missing, unknown, or has a value that cannot be run.
        """
        fields.harmless({"model_type", *HARMLESS, *self.harmless})
        for name, allowed in {**REQUIRED, **self.required}.items():
            fields.require(name, *allowed)
        try:
            encoder = self.encoder(fields)
        except ConfigError as error:
            raise ConversionError(f"{fields.file}: {error}") from error
        fields.done()
        return encoder
