import pytest

from kernels.cpu import build, library


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """Whoever tests the compiled kernels has a compiler: scripts/system_packages.sh brings one."""
    build.build()
    library.variant.cache_clear()
    library.library.cache_clear()


@pytest.fixture(params=library.suitable())
def variant(request, monkeypatch):
    """The operations by each library that this processor runs."""
    opened = library.open_library(build.path_of(request.param))
    monkeypatch.setattr(library, "library", lambda: opened)
    return request.param
