import pytest
from samples import search_config

from pipeline.cluster import Cluster, trial_resources
from pipeline.errors import SearchError


def cluster(*nodes):
    """A cluster of nodes with (cores, GPUs)."""
    return Cluster(nodes=nodes, image_bytes=1e9)


@pytest.mark.parametrize(
    ("nodes", "settings", "found"),
    [
        ([(8, 0)], {"cpus_per_trial": 2}, (False, 2.0)),
        ([(8, 4)], {}, (True, 1.0)),
        ([(8, 4)], {"gpus_per_trial": 0.25}, (True, 0.25)),
        ([(8, 4)], {"gpus_per_trial": 0, "cpus_per_trial": 8}, (False, 8.0)),
        ([(16, 0), (4, 1)], {"cpus_per_trial": 4}, (True, 1.0)),
    ],
)
def test_what_a_trial_reserves(nodes, settings, found):
    assert trial_resources(cluster(*nodes), search_config(**settings)) == found


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([(8, 0)], {"gpus_per_trial": 1}, "the cluster has no GPU"),
        ([(8, 1)], {"cpus_per_trial": 9}, "the largest node has 8 cores"),
        ([(8, 1), (8, 1)], {"gpus_per_trial": 2}, "no node has 2 GPUs and"),
        ([(16, 0), (4, 1)], {"cpus_per_trial": 8}, "no node has 1 GPUs and the 8 cores"),
    ],
)
def test_a_trial_that_fits_no_node_is_refused(nodes, settings, message):
    with pytest.raises(SearchError, match=message):
        trial_resources(cluster(*nodes), search_config(**settings))
