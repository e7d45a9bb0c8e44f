"""Self-attention with quantised activations, which ViT and Swin share.

                  hn, spikezip                                  mst
    logits        q_act(q) k_act(k)^T scale + bias              attn_act(q_act(q) k_act(k)^T scale) + bias
    result        av_act(attn_act(softmax(logits)) v_act(v))    av_act(softmax(logits) v_act(v))
    out           proj_act(proj(result))                        the same

q, k, v are [B, (windows,) heads, tokens, D]. hn: HN-QCFS, thresholds per head but for proj_act. spikezip: You et al., "SpikeZIP-TF", ICML 2024.
mst: Wang et al., "Masked Spiking Transformer", ICCV 2023, which has no neuron behind the softmax and masks spikes of q, k and the logits.
"""

from torch import nn

from snnfast.models.tokens import divided

MASKED = ("attn.q_act", "attn.k_act", "attn.attn_act")  # whose spikes MST masks


class Attention(nn.Module):
    """x [B, (windows,) tokens, dim] -> the same shape.

    head_act, act: make an activation for a number of heads or of features, (many, signed).  quantised_logits: as MST has it.
    """

    def __init__(self, dim, heads, head_act, act, qkv_bias=True, quantised_logits=False):
        super().__init__()
        self.heads, self.head_dim = heads, divided(dim, heads)
        self.scale, self.quantised_logits = self.head_dim**-0.5, quantised_logits
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_act, self.k_act, self.v_act = (head_act(heads, True) for _ in range(3))
        self.attn_act, self.av_act = head_act(heads, False), head_act(heads, True)
        self.proj = nn.Linear(dim, dim)
        self.proj_act = act(dim, True)

    def forward(self, x, bias=None):
        """bias: what is added to the logits; it broadcasts over [B, (windows,) heads, tokens, tokens]."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))
        q, k, v = (qkv[..., i, :, :].transpose(-3, -2) for i in range(3))
        logits = (self.q_act(q) * self.scale) @ self.k_act(k).transpose(-2, -1)
        if self.quantised_logits:
            logits = self.attn_act(logits)
        if bias is not None:
            logits = logits + bias
        attn = logits.softmax(-1)
        if not self.quantised_logits:
            attn = self.attn_act(attn)
        y = self.av_act(attn @ self.v_act(v))
        return self.proj_act(self.proj(y.transpose(-3, -2).flatten(-2)))
