# CPU:  docker build -t nuggets .
# CUDA: docker build -t nuggets --build-arg TORCH=cu130 .   (and `docker run --gpus all`)
FROM python:3.12-slim AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim
ARG TORCH=cpu
COPY constraints.txt /tmp/
COPY --from=wheel /wheel /tmp/wheel
RUN pip install --no-cache-dir "$(grep '^torch==' /tmp/constraints.txt)" \
        --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && grep -v '^torch==' /tmp/constraints.txt > /tmp/others.txt \
    && pip install --no-cache-dir -c /tmp/others.txt "$(echo /tmp/wheel/*.whl)[app]" \
    && rm -r /tmp/* \
    && useradd --create-home --uid 1000 nuggets \
    && install -d -o nuggets /data
USER 1000
ENV NUGGETS_HOME=/data
VOLUME /data
EXPOSE 8501
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health')"]
# It listens on all of the container's addresses and answers to `localhost` alone: publish the port on
# this machine (compose.yaml), or add `--name` and put a proxy with authentication in front of it.
ENTRYPOINT ["nuggets"]
CMD ["app", "--no-open", "--host", "0.0.0.0", "--port", "8501"]
