"""Serves with FastAPI on uvicorn and `--workers`: https://fastapi.tiangolo.com/deployment/server-workers/

The work is in a plain `def`, which FastAPI runs in its thread pool, as its page advises for blocking code:
https://fastapi.tiangolo.com/async/#path-operation-functions
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, FastAPI, Response

from benchmarks.work import from_environment

app = FastAPI()
answer = from_environment()


@app.post("/predict")
def predict(picture: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
    """Do all of the work."""
    return Response(answer(picture), media_type="application/json")
