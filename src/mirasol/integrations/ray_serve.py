"""`mirasol serve --engine ray`: replicas of the same application behind the proxy of Ray Serve."""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
from importlib.util import find_spec
from typing import Any

from mirasol.integrations.ray_proxy import SERVICE_RESTART, AtReplica
from mirasol.serve.run import DRAIN_SECONDS, Say, Setup, bind

OBJECT_STORE_BYTES = 80 * 2**20  # Ray needs 75 MiB; this server stores nothing in it
START_TRIES = 3
POLL_SECONDS, SCRAPE_SECONDS = 0.05, 8.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # a client of Ray's ports can run code
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so that Ray's own ports listen on loopback
    "RAY_worker_niceness": "0",  # by default replicas have a low priority
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",  # on a busy machine the imports take more than 5 s
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "mirasol.integrations.ray_proxy:middlewares",
}


def serve(setup: Setup, replicas: int = 2, say: Say = print) -> None:
    """Serve from several processes until a signal, then finish accepted work and save the live sessions.

    Args:
        setup: Settings of each replica. The replicas share its folder.
        replicas: Number of processes with the model.
        say: Receives lines for the user.
    """
    if find_spec("ray") is None:
        raise ValueError("Expected the package ray, found that it is not installed. Run pip install 'mirasol[ray]'.")
    encryption = setup.encryption(say)
    with bind(setup.host, setup.port) as listener:  # an unusable port is refused before Ray starts
        port = listener.getsockname()[1]
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from ray import serve as ray_serve

    quiet: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    scratch = tempfile.mkdtemp(prefix="mirasol-ray-")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        try:
            _start(ray, scratch)
            signal.signal(signal.SIGTERM, _interrupt)  # Ray replaced the handler
            http = {"host": setup.host, "port": port, "keep_alive_timeout_s": 30, **encryption}
            ray_serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
            handle = ray_serve.run(deployment(setup, replicas, quiet), name="mirasol", route_prefix="/")
        except Exception as error:  # Ray raises no common class
            raise ValueError(
                f"Expected {replicas} replicas to start, found that they do not ({error}). Read the lines above. On a "
                "machine with little memory or a high load, start fewer replicas, or use --engine uvicorn."
            ) from error
        setup.announce(port, say)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if ray.is_initialized():
            with contextlib.suppress(Exception):  # replicas that ended have nothing to finish
                handle.broadcast("drain").results(timeout_s=DRAIN_SECONDS + 10.0)
            ray_serve.shutdown()
            ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _start(ray: Any, scratch: str) -> None:
    """Start Ray, in several tries, because it fails if a process of its own takes over 15 s (ray#65983)."""
    for tries_left in reversed(range(START_TRIES)):
        try:
            ray.init(
                address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.WARNING, _temp_dir=scratch,
            )  # fmt: skip
            return
        except Exception:
            if not tries_left:
                raise
            ray.shutdown()


def deployment(setup: Setup, replicas: int, logs: dict[str, Any]) -> Any:
    """Return the application for `ray.serve.run`."""
    from ray import serve as ray_serve

    @ray_serve.deployment(
        name="mirasol", num_replicas=replicas, ray_actor_options={"num_cpus": 0}, logging_config=logs,
        max_ongoing_requests=10_000,  # the engine's own queues refuse excess requests
        graceful_shutdown_timeout_s=DRAIN_SECONDS, graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5.0, health_check_timeout_s=60.0,
    )  # fmt: skip
    @ray_serve.ingress()
    class Replica:
        def __serve_build_asgi_app__(self) -> Any:
            self.web, self.confined = setup.build()
            self.web.state.metrics.gather = self.gather
            return AtReplica(self.web)

        def check_health(self) -> None:
            """Raise if the model's thread has ended; Ray then replaces the replica."""
            if not self.web.state.service.engine.is_alive:
                raise RuntimeError("Expected the model's thread to run, found that it has ended.")

        def metrics(self) -> list[Any]:
            return self.web.state.metrics.of_process(str(os.getpid()))

        def gather(self) -> list[Any]:
            """Return the metrics of all replicas, because a scrape reaches only one."""
            replicas = ray_serve.get_deployment_handle("mirasol", "mirasol").broadcast("metrics")
            found = replicas.results(timeout_s=SCRAPE_SECONDS, return_exceptions=True)
            return [metric for each in found if isinstance(each, list) for metric in each]

        async def drain(self) -> None:
            """Refuse new work, close the connections of live sessions, which saves them, and finish accepted work."""
            await drain(self.web.state.service)

        def __del__(self) -> None:
            self.confined.close()

    made: Any = Replica  # the decorators return a deployment
    return made.bind()


async def drain(service: Any) -> None:
    """See `Replica.drain`."""
    service.engine.is_draining = True
    for connection in list(service.connections.values()):
        with contextlib.suppress(RuntimeError):
            await connection.socket.close(SERVICE_RESTART)
    async with asyncio.timeout(DRAIN_SECONDS):
        while service.connections or service.engine.has_work:
            await asyncio.sleep(POLL_SECONDS)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
