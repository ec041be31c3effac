"""What training a token costs: model-spec §5.3, three times its forward, with the head; 2 FLOPs a multiply-add.

Counted are the products of the model as it is served (the chosen experts, causal attention), not of a shortcut such as
computing every expert. Norms, filters and gates are left out.
"""

CHUNK = 64  # rows of a tile of KDA


def training(config: dict, length: int) -> float:
    """FLOPs a token of sequences of ``length`` tokens."""
    return 3 * forward(config, length)


def forward(config: dict, length: int) -> float:
    head = 2 * config["vocab_size"] * config["hidden_size"]
    return head + 2 * linears(config) + mixing(config, length)


def linears(config: dict) -> int:
    """Weights that a token meets in the layers."""
    linear, width = config["linear_attn_config"], config["hidden_size"]
    chosen = config["num_experts_per_token"] + config["num_shared_experts"]
    dense = config["first_k_dense_replace"]
    moe = width * (config["num_experts"] + 3 * config["moe_intermediate_size"] * chosen)
    mlps = dense * 3 * width * config["intermediate_size"] + (config["num_hidden_layers"] - dense) * moe
    return mlps + len(linear["kda_layers"]) * kda(config) + len(linear["full_attn_layers"]) * mla(config)


def kda(config: dict) -> int:
    linear, width = config["linear_attn_config"], config["hidden_size"]
    dim, inner = linear["head_dim"], linear["num_heads"] * linear["head_dim"]
    low_rank = dim * (width + inner)
    gate = low_rank if linear.get("output_gate") != "none" else 0
    return 4 * width * inner + low_rank + gate + width * linear["num_heads"]


def mla(config: dict) -> int:
    width, rank, heads = config["hidden_size"], config["kv_lora_rank"], config["num_attention_heads"]
    nope, rest, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    return width * (heads * (nope + rest + value) + rank + rest) + rank * heads * (nope + value)


def mixing(config: dict, length: int) -> float:
    """Of a token: KDA in dense tiles; softmax attention over the tokens before it, on average half the length."""
    linear = config["linear_attn_config"]
    dim, heads = linear["head_dim"], config["num_attention_heads"]
    tiles = len(linear["kda_layers"]) * linear["num_heads"] * (6 * dim * dim + 10 * CHUNK * dim)
    widths = config["qk_nope_head_dim"] + config["qk_rope_head_dim"] + config["v_head_dim"]
    return tiles + len(linear["full_attn_layers"]) * heads * widths * length
