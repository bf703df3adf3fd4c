"""Scaled dot-product attention as the networks here call it.

Shape suffixes: b batch, n heads, l queries, s keys and values, h channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def scaled_dot_product_attention(
    query_bnlh: torch.Tensor,
    key_bnsh: torch.Tensor,
    value_bnsh: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend: softmax(Q K^T / sqrt(h)) V (Vaswani et al. 2017, eq. 1).

    Under autocast on a CPU the product runs in float32, because the backward pass of the bfloat16 kernel is many times
    slower there. Casting alone would not do: autocast casts the arguments of this operation down again.

    Args:
        query_bnlh (`torch.Tensor` of shape `(batch_size, num_heads, query_length, head_dim)`): Floating point.
        key_bnsh (`torch.Tensor` of shape `(batch_size, num_heads, key_length, head_dim)`): Floating point.
        value_bnsh (`torch.Tensor` of shape `(batch_size, num_heads, key_length, head_dim)`): Floating point.
        attn_mask (`torch.Tensor` broadcastable to `(batch_size, num_heads, query_length, key_length)`, *optional*):
            Floating point: added to the scores before the softmax. Boolean: False hides a pair.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_heads, query_length, head_dim)`, dtype of `query_bnlh`.
    """
    if query_bnlh.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(query_bnlh, key_bnsh, value_bnsh, attn_mask=attn_mask)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(
            query_bnlh.float(), key_bnsh.float(), value_bnsh.float(), attn_mask=attn_mask
        )
    return attended.to(query_bnlh.dtype)
