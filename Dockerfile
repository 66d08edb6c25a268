# docker build -t medmim .                                       CPU
# docker build -t medmim --build-arg TORCH=cu126 .               NVIDIA GPU; run with --gpus all
# docker run --rm --shm-size 8g -v /data:/data:ro -v "$PWD/out:/out" medmim ingest /data --out /out/medmim-data
FROM python:3.12-slim
ARG TORCH=cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY medmim ./medmim
COPY configs ./configs
COPY data_manifests ./data_manifests
# torch first, from one index: with two, pip takes the newest of both, whatever CUDA version it is for
RUN pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${TORCH}" 'torch>=2.11' \
    && pip install --no-cache-dir '.[itk,onnx,ui]' \
    && rm -rf /src/* \
    && useradd --create-home medmim
USER medmim
WORKDIR /out
ENV MEDMIM_HOME=/out/medmim-runs
ENTRYPOINT ["medmim"]
CMD ["--help"]
