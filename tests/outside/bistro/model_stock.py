"""A soup method: Model Stock (Jang et al., 2024), between theta0 and the mean of the ingredients, layer by layer."""

import torch
from torch.nn.functional import normalize

from pipeline.errors import SoupError
from pipeline.soups import Method, Soup, calling, nonzero_rows, soup_from_coefficients


def model_stock(ingredients, theta0):
    """Weights t mean + (1 - t) theta0 with t = K cos / (1 + (K - 1) cos), cos the mean cosine between two ways."""
    if theta0 is None:
        raise SoupError("model-stock needs theta0; give the weights that all ingredients started from")
    count, layers = len(ingredients), ingredients.floating
    shares = []
    for name in layers:
        start = theta0[name].double().cpu().flatten()
        ways = torch.stack([ingredients.tensor(k, name).double().flatten() - start for k in range(count)])  # (K, numel)
        cosines = normalize(ways, dim=1) @ normalize(ways, dim=1).T
        cosine = ((cosines.sum() - cosines.trace()) / max(count * (count - 1), 1)).clamp(min=0)
        shares.append(1.0 if count == 1 else (count * cosine / (1 + (count - 1) * cosine)).item())
    coefficients = torch.tensor(shares, dtype=torch.float64).expand(count, -1) / count  # (K, L)
    weights = soup_from_coefficients(ingredients, coefficients, layers, theta0)
    return Soup("model-stock", weights, coefficients, layers, nonzero_rows(coefficients))


MODEL_STOCK = Method("model-stock", "Model Stock", calling(model_stock), needs_theta0=True)
