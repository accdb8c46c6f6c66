"""Configuration of GPT-NeoX models whose layers share key/value heads (MLKV, arXiv 2406.09297)."""

try:
    from transformers import PreTrainedConfig
except ImportError:  # transformers 4
    from transformers import PretrainedConfig as PreTrainedConfig


class MLKVConfig(PreTrainedConfig):
    r"""
    The configuration of an [`MLKVModel`]. Arguments that are not listed are those of
    [`~transformers.GPTNeoXConfig`] and mean the same.

    Args:
        num_key_value_heads (`int`, *optional*, defaults to `num_attention_heads`):
            Key/value heads of a layer that owns any. Query heads share them in contiguous groups.
        num_key_value_layers (`int`, *optional*):
            Layers that own keys. Defaults to those of `layer_map`, or to all.
        layer_map (`str`, *optional*):
            For each layer the layer whose keys and values it attends to, itself or an earlier one, as `"0_0_2_2"`. By
            default `num_key_value_layers` owners are spread evenly.
        value_layer_map (`str`, *optional*):
            The same for values, where `layer_map` is that of keys only. By default one map is for both.
        shared_key_rotary (`str`, *optional*):
            Where a layer takes borrowed keys: `"after"` the owner's rotary embedding or `"before"` it. Defaults to
            `"before"` where `num_key_value_layers` is given, which is how configurations without this argument are
            meant, otherwise to `"after"`.
        use_key_value_mlp (`bool`, *optional*, defaults to `False`):
            Whether keys and values are projected by two-layer MLPs.
        kv_intermediate_size (`int`, *optional*):
            Width of these MLPs.
        rotary_pct (`float`, *optional*, defaults to 0.25):
            Share of a head that the rotary embedding turns.
        rotary_emb_base (`float`, *optional*, defaults to 10000):
            Base of the rotary frequencies.
    """

    model_type = "gpt_neox_mlkv"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=50304,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=None,
        num_key_value_layers=None,
        layer_map=None,
        value_layer_map=None,
        shared_key_rotary=None,
        use_key_value_mlp=False,
        kv_intermediate_size=None,
        intermediate_size=3072,
        hidden_act="gelu",
        rotary_pct=0.25,
        rotary_emb_base=10000.0,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        max_position_embeddings=2048,
        initializer_range=0.02,
        layer_norm_eps=1e-5,
        use_parallel_residual=True,
        use_cache=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        tie_word_embeddings=False,
        **kwargs,
    ):
        if shared_key_rotary is None:
            shared_key_rotary = "after" if num_key_value_layers is None else "before"
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        if num_key_value_layers is None:
            num_key_value_layers = num_hidden_layers if layer_map is None else len(set(layer_map.split("_")))
        self.num_key_value_layers = num_key_value_layers
        self.layer_map = layer_map
        self.value_layer_map = value_layer_map
        self.shared_key_rotary = shared_key_rotary
        self.use_key_value_mlp = use_key_value_mlp
        self.kv_intermediate_size = kv_intermediate_size
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.rotary_pct = rotary_pct
        self.rotary_emb_base = rotary_emb_base
        self.attention_dropout = attention_dropout
        self.hidden_dropout = hidden_dropout
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.use_parallel_residual = use_parallel_residual
        self.use_cache = use_cache
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
        self.validate_sharing()

    @property
    def owners(self) -> list[int]:
        """For each layer the layer whose keys it attends to."""
        if self.layer_map is not None:
            return [int(owner) for owner in self.layer_map.split("_")]
        layers, count = self.num_hidden_layers, self.num_key_value_layers
        starts = [int(i * (layers / count)) for i in range(count)]
        return [max(start for start in starts if start <= layer) for layer in range(layers)]

    @property
    def value_owners(self) -> list[int]:
        """For each layer the layer whose values it attends to."""
        if self.value_layer_map is not None:
            return [int(owner) for owner in self.value_layer_map.split("_")]
        return self.owners

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dims(self) -> int:
        """Leading channels of a head that the rotary embedding turns."""
        return int(self.head_size * self.rotary_pct)

    def validate_sharing(self):
        """Raises a `ValueError` that names the first member that does not fit the others."""
        for name, owners in ("layer_map", self.owners), ("value_layer_map", self.value_owners):
            if len(owners) != self.num_hidden_layers:
                raise ValueError(f"{name}: expected {self.num_hidden_layers} layers, found {len(owners)}")
            for layer, owner in enumerate(owners):
                if not 0 <= owner <= layer or owners[owner] != owner:
                    raise ValueError(f"{name}: layer {layer} names {owner}, expected itself or an earlier owner")
        if len(set(self.owners)) != self.num_key_value_layers:
            raise ValueError(
                f"num_key_value_layers: expected {len(set(self.owners))} as in layer_map, "
                f"found {self.num_key_value_layers}"
            )
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} must divide num_attention_heads "
                f"{self.num_attention_heads}, and that hidden_size {self.hidden_size}"
            )
        if self.shared_key_rotary not in ("after", "before"):
            raise ValueError(f"shared_key_rotary: expected 'after' or 'before', found {self.shared_key_rotary!r}")
        if self.use_key_value_mlp and not self.kv_intermediate_size:
            raise ValueError("kv_intermediate_size: expected a width where use_key_value_mlp is set")


__all__ = ["MLKVConfig"]
