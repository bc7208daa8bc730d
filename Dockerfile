FROM python:3.13-slim
RUN useradd --uid 10001 --create-home --home-dir /var/lib/kube-audit-slack audit
WORKDIR /app
COPY setup.cfg pyproject.toml README.md LICENSE app.py gunicorn.conf.py ./
COPY audit audit
RUN pip install --no-cache-dir '.[postgres]'
USER 10001
# The store and gunicorn's heartbeat are the only things written: the root may be read-only, with a
# volume at /var/lib/kube-audit-slack. Listening beyond the container needs AUDIT_TOKEN.
ENV STATE_DIRECTORY=/var/lib/kube-audit-slack AUDIT_BIND=0.0.0.0:8080 PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 GUNICORN_CMD_ARGS="--worker-tmp-dir /dev/shm"
VOLUME /var/lib/kube-audit-slack
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
CMD ["gunicorn", "app:app"]
