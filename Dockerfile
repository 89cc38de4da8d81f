# The image of all machines of a cluster: this package with what its commands need, and the entry points of `jobs`.
#
#   docker build --tag registry.example.com/cfgen-dist:0.1.0 .
#
# The wheel of torch that PyPI has for Linux brings CUDA with it, so the same image serves CPUs and GPUs. Every version
# is that of constraints.txt. tests/test_jobs/test_image.py runs these steps without Docker.
FROM python:3.11-slim-bookworm

# wget: KubeRay asks a node for its health by it. rsync, openssh-client: `ray up` with this image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget procps rsync openssh-client \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 cfgen
WORKDIR /home/cfgen/app

# What others make comes first: it changes rarely.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt "ray[default,train,tune]" torch obstore tiledbsoma

COPY pyproject.toml README.md LICENSE ./
COPY data_loaders data_loaders
COPY cfgen_dist cfgen_dist
RUN pip install --no-cache-dir --constraint constraints.txt ".[ray,remote,soma,hdf5,tensorboard]" \
    && rm -rf build ./*.egg-info data_loaders cfgen_dist pyproject.toml README.md

COPY jobs jobs
RUN cfgen-dist --version && ray --version
USER cfgen
ENV RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
CMD ["cfgen-dist", "--help"]
