"""The WSGI application: `gunicorn app:app`."""

from audit import create_app, start

app = create_app()
start(app)
