"""GPT-NeoX whose layers share key/value heads (MLKV, arXiv 2406.09297).

A layer either owns keys and values or borrows those of an earlier layer; it may own one and borrow the other. Only
owners have key and value projections, and only owners have an entry in the cache, at the place that they have among
the owners.

Shapes are written with B for the batch, Q for new tokens, K for the tokens that can be attended to, A for query heads,
G for key/value heads, D for the head size and H for the hidden size.
"""

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_mlkv import MLKVConfig


def rotary_angles(config: MLKVConfig, positions: torch.Tensor) -> torch.Tensor:
    """The angles by which rotary turns pairs of channels at the given positions: [..., rotary_dims / 2], float32."""
    pairs = torch.arange(0, config.rotary_dims, 2, device=positions.device, dtype=torch.float32)
    return positions[..., None].float() * config.rotary_emb_base ** (-pairs / config.rotary_dims)


def rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turns the leading channels of every head, x [B, heads, N, D], by angles [B or 1, N, rotary_dims / 2]."""
    pairs = angles.shape[-1]
    if pairs == 0:
        return x
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    first, second = x[..., :pairs].float(), x[..., pairs : 2 * pairs].float()
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((turned.to(x.dtype), x[..., 2 * pairs :]), dim=-1)


def repeat_heads(x: torch.Tensor, times: int) -> torch.Tensor:
    """Repeats each of G heads for its group of query heads: [B, G, K, D] -> [B, G * times, K, D]."""
    if times == 1:
        return x
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, times, length, size).reshape(batch, heads * times, length, size)


class CausalMask:
    """What may be attended to. One mask serves all layers of a pass; it is made when the first asks for it, for only
    the cache knows how many keys there are.

    Args:
        attention_mask (`torch.Tensor`, *optional*):
            [B, K] with zeros for padding, or a finished mask [B, 1, Q, K], boolean or to be added to scores.
        past (`int`): Tokens in the cache.
        length (`int`): New tokens, Q.
    """

    def __init__(self, attention_mask: torch.Tensor | None, past: int, length: int):
        self.finished = None
        if attention_mask is not None and attention_mask.dim() == 4:
            self.finished, attention_mask = attention_mask, None
        elif attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        self.padding = attention_mask
        self.past, self.length = past, length

    def __call__(self, keys: torch.Tensor) -> torch.Tensor | None:
        """The mask for keys [B, G, K, D], or None where causality says all."""
        count = keys.shape[-2]
        if self.finished is None:
            if self.padding is None and count == self.past + self.length and (self.past == 0 or self.length == 1):
                return None
            self.finished = self.make(count, keys.device)
        return self.finished[..., :count].to(keys.device)

    def make(self, count: int, device: torch.device) -> torch.Tensor:
        queries = self.past + torch.arange(self.length, device=device)[:, None]
        keys = torch.arange(count, device=device)
        allowed = (keys <= queries)[None, None]
        if self.padding is not None:
            padding = nn.functional.pad(self.padding.to(device).bool(), (0, count - self.padding.shape[-1]))
            # A padding token sees itself: a row of scores without any would become NaN.
            allowed = allowed & padding[:, None, None] | (keys == queries)
        return allowed


def sdpa_attention(query, key, value, mask, scale, dropout):
    """Attention of query [B, A, Q, D] over key and value [B, G, K, D]: [B, A, Q, D], without weights."""
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    if length == 1:
        # The query heads of a group become rows of one product, so that keys and values are read once.
        query = query.reshape(batch, groups, heads // groups, size)
    else:
        key, value = repeat_heads(key, heads // groups), repeat_heads(value, heads // groups)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None and length > 1, scale=scale
    )
    return output.reshape(batch, heads, length, size), None


def eager_attention(query, key, value, mask, scale, dropout):
    """The same as products and a softmax, with the weights [B, A, Q, K]."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_heads(key, groups), repeat_heads(value, groups)
    scores = query @ key.transpose(-1, -2) * scale
    if mask is None and query.shape[-2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return nn.functional.dropout(weights, p=dropout) @ value, weights


class MLKVFeedForward(nn.Module):
    """Linear, activation, linear, under the names that GPT-NeoX gives to them."""

    def __init__(self, config: MLKVConfig):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dense_4h_to_h(self.act(self.dense_h_to_4h(hidden_states)))


class MLKVProjection(nn.Module):
    """A key or value projection of two layers (`use_key_value_mlp`)."""

    def __init__(self, config: MLKVConfig, width: int):
        super().__init__()
        self.dense_in = nn.Linear(config.hidden_size, config.kv_intermediate_size)
        self.dense_out = nn.Linear(config.kv_intermediate_size, width)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dense_out(self.act(self.dense_in(hidden_states)))


class MLKVAttention(nn.Module):
    def __init__(self, config: MLKVConfig, layer_idx: int):
        super().__init__()
        owners, value_owners = config.owners, config.value_owners
        self.config = config
        self.layer_idx = layer_idx
        self.owns_keys = owners[layer_idx] == layer_idx
        self.owns_values = value_owners[layer_idx] == layer_idx
        if self.owns_keys or self.owns_values:
            self.cache_idx = sorted({*owners, *value_owners}).index(layer_idx)
        # The owner alone sees its keys turned where borrowers want them unturned.
        self.shares_unturned = self.owns_keys and config.shared_key_rotary == "before" and owners.count(layer_idx) > 1
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        if self.owns_keys:
            self.key = self.projection()
        if self.owns_values:
            self.value = self.projection()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def projection(self) -> nn.Module:
        """Of keys or values."""
        width = self.config.num_key_value_heads * self.config.head_size
        if self.config.use_key_value_mlp:
            return MLKVProjection(self.config, width)
        return nn.Linear(self.config.hidden_size, width)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """[B, Q, heads * D] -> [B, heads, Q, D]."""
        return x.view(*x.shape[:2], -1, self.config.head_size).transpose(1, 2)

    def cached(self, key: torch.Tensor, value: torch.Tensor, past_key_values) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds what the layer owns to its entry of the cache and returns keys and values of all tokens.

        An entry of one alone, keys or values, holds it in the place of keys, from which transformers reads the
        length, and in that of values a tensor without channels.
        """
        if self.owns_keys and self.owns_values:
            return past_key_values.update(key, value, self.cache_idx)
        if self.owns_keys:
            key, _ = past_key_values.update(key, key[..., :0], self.cache_idx)
        elif self.owns_values:
            value, _ = past_key_values.update(value, value[..., :0], self.cache_idx)
        return key, value

    def forward(
        self,
        hidden_states: torch.Tensor,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        angles: torch.Tensor,
        mask: CausalMask,
        past_key_values=None,
        output_attentions: bool = False,
    ):
        """
        Args:
            hidden_states: [B, Q, H].
            key, value: The owner's, [B, G, K, D]; neither is read by a layer that owns it.
            angles: Of rotary at the new tokens.

        Returns:
            The output [B, Q, H], keys and values as borrowers see them, and the weights of attention if asked for.
        """
        batch, length, _ = hidden_states.shape
        query = self.heads(self.query(hidden_states))
        turned = rotate(query, angles)
        if self.owns_keys:
            key = self.heads(self.key(hidden_states))
            if not self.shares_unturned:
                key = rotate(key, angles)
        if self.owns_values:
            value = self.heads(self.value(hidden_states))
        if past_key_values is not None:
            key, value = self.cached(key, value, past_key_values)
        seen = key
        if self.shares_unturned:
            # Scores of turned queries and keys depend on distances only, so both may count from the cache's beginning.
            steps = rotary_angles(self.config, torch.arange(key.shape[-2], device=key.device))[None]
            new = mask.past + torch.arange(length, device=key.device)
            turned, seen = rotate(query, steps[:, new]), rotate(key, steps)
        eager = output_attentions or self.config._attn_implementation == "eager"
        output, weights = (eager_attention if eager else sdpa_attention)(
            turned,
            seen,
            value,
            mask(key),
            scale=self.config.head_size**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        output = self.dense(output.transpose(1, 2).reshape(batch, length, -1))
        return output, key, value, weights if output_attentions else None


class MLKVLayer(nn.Module):
    def __init__(self, config: MLKVConfig, layer_idx: int):
        super().__init__()
        self.use_parallel_residual = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.attention = MLKVAttention(config, layer_idx)
        self.mlp = MLKVFeedForward(config)

    def forward(self, hidden_states: torch.Tensor, *args):
        """Returns the hidden states [B, Q, H] and what attention returns beside its output."""
        attended, *rest = self.attention(self.input_layernorm(hidden_states), *args)
        attended = hidden_states + self.dropout(attended)
        residual = hidden_states if self.use_parallel_residual else attended
        return attended + self.dropout(self.mlp(self.post_attention_layernorm(residual))), *rest


class MLKVPreTrainedModel(PreTrainedModel):
    config_class = MLKVConfig
    base_model_prefix = "gpt_neox"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MLKVLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_cache_class = True
    # Buffers in files of the MLKV authors' code, which follow from the configuration.
    _keys_to_ignore_on_load_unexpected = [r"attention\.(bias|masked_bias|rotary_emb\.inv_freq)$"]


class MLKVModel(MLKVPreTrainedModel):
    def __init__(self, config: MLKVConfig):
        super().__init__(config)
        self.owners, self.value_owners = config.owners, config.value_owners
        self.embed_in = nn.Embedding(config.vocab_size, config.hidden_size)
        self.emb_dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(MLKVLayer(config, i) for i in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_in

    def set_input_embeddings(self, value: nn.Module):
        self.embed_in = value

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values=None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast | tuple:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        checkpointing = self.gradient_checkpointing and self.training
        use_cache = (self.config.use_cache if use_cache is None else use_cache) and not checkpointing
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if inputs_embeds is None:
            inputs_embeds = self.embed_in(input_ids)
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        length = inputs_embeds.shape[1]
        past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        if position_ids is None:
            position_ids = past + torch.arange(length, device=inputs_embeds.device)[None]
        angles = rotary_angles(self.config, position_ids)
        mask = CausalMask(attention_mask, past, length)

        hidden_states = self.emb_dropout(inputs_embeds)
        all_hidden_states, attentions = [hidden_states], []
        keys, values = {}, {}  # of each owner, as its borrowers see them
        for layer, owner, value_owner in zip(self.layers, self.owners, self.value_owners):
            key, value = keys.get(owner), values.get(value_owner)
            arguments = (hidden_states, key, value, angles, mask, past_key_values, output_attentions)
            if checkpointing:
                outputs = self._gradient_checkpointing_func(layer.__call__, *arguments)
            else:
                outputs = layer(*arguments)
            hidden_states, keys[owner], values[value_owner], weights = outputs
            all_hidden_states.append(hidden_states)
            attentions.append(weights)
        hidden_states = self.final_layer_norm(hidden_states)
        all_hidden_states[-1] = hidden_states

        outputs = BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return outputs if (self.config.return_dict if return_dict is None else return_dict) else outputs.to_tuple()


class MLKVForCausalLM(MLKVPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"embed_out.weight": "gpt_neox.embed_in.weight"}

    def __init__(self, config: MLKVConfig):
        super().__init__(config)
        self.gpt_neox = MLKVModel(config)
        self.embed_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.gpt_neox.embed_in

    def set_input_embeddings(self, value: nn.Module):
        self.gpt_neox.embed_in = value

    def get_output_embeddings(self) -> nn.Module:
        return self.embed_out

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.embed_out = new_embeddings

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values=None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """
        Args:
            labels: [B, Q], the tokens themselves with -100 where nothing counts; the loss is of the next token.
            logits_to_keep: The last positions whose logits are wanted, or their indices; 0 is all.
        """
        outputs = self.gpt_neox(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.embed_out(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()


__all__ = ["MLKVForCausalLM", "MLKVModel", "MLKVPreTrainedModel"]
