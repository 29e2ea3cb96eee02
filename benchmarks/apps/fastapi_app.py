"""FastAPI on uvicorn, started with `--workers`: https://fastapi.tiangolo.com/deployment/server-workers/

The work is in a plain `def`, which FastAPI runs in its thread pool, as it asks for what blocks:
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
    """All of the work."""
    return Response(answer(picture), media_type="application/json")
