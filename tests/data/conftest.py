import pytest


@pytest.fixture(scope="module")
def local_ray():
    """A real Ray of two CPUs on this machine; importing it only here lets other modules show that they do without."""
    import ray

    if ray.is_initialized():  # by the tests of another folder, which keep theirs
        yield
        return
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()
