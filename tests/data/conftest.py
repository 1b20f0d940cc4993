import pytest


@pytest.fixture(scope="module")
def local_ray():
    """A real Ray of two CPUs on this machine; importing it only here lets other modules show that they do without."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()
