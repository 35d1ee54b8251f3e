"""The six RPCs: requests in, answers out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from google.rpc import status_pb2

from archscore._version import __version__
from archscore.spaces import SPACES
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server import enums, errors, pagination, requests, responses, serialized
from archscore_server.admission import admit
from archscore_server.answers import Answers
from archscore_server.clients import CALLER
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import Precision, Score
from archscore_server.engine import proxies as registry
from archscore_server.errors import RequestError
from archscore_server.pagination import PageTokenError
from archscore_server.pool import Pool
from archscore_server.recent import ByEncoding
from archscore_server.requests import Encodings, ScoringRequest, ScoringRequests
from archscore_server.results import Result
from archscore_server.scoring import Scoring

SERVICE_NAME: str = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class ScoringService(scoring_pb2_grpc.ScoringServiceServicer):
    """ScoringService of the contract, over the scheduler. Errors are raised as RequestError."""

    def __init__(self, scoring: Scoring, pool: Pool, catalogue: Catalogue, limits: Limits) -> None:
        """Takes what it answers from.

        Args:
            scoring: scores architectures.
            pool: what there is to be said about workers.
            catalogue: the datasets at hand.
            limits: what requests may ask for.
        """
        self._scoring = scoring
        self._pool = pool
        self._catalogue = catalogue
        self._limits = limits
        self._requests = ScoringRequests(limits, catalogue)
        self._answers = Answers()

    async def ScoreArchitecture(  # noqa: N802 -- the contract's name
        self, request: scoring_pb2.ScoreArchitectureRequest, context: Context
    ) -> scoring_pb2.ScoreArchitectureResponse:
        """Scores one architecture."""
        common = self._check(request)
        encodings = Encodings([request.architecture])
        answers = self._answers.to(common)
        chunks = self._scoring.results(
            common, encodings, lambda _: "architecture.encoding", CALLER.get().name, context.time_remaining(), answers
        )
        async with aclosing(chunks):
            [(_, result)] = await anext(chunks)
        answer = result.answer
        if isinstance(answer, status_pb2.Status):
            raise RequestError(answer)
        if not isinstance(answer, bytes):
            answer = self._write(answer, result, common, await self._fingerprint(common), encodings[0], answers)
        evaluation = scoring_pb2.ArchitectureResult.FromString(answer).evaluation
        return scoring_pb2.ScoreArchitectureResponse(evaluation=evaluation)

    async def ScoreArchitectures(  # noqa: N802 -- the contract's name
        self, request: scoring_pb2.ScoreArchitecturesRequest, context: Context
    ) -> AsyncIterator[Any]:
        """Scores many architectures and answers as they finish, with serialized messages."""
        common = self._check(request)
        encodings = Encodings(request.architectures)
        answers = self._answers.to(common)
        chunks = self._scoring.results(
            common,
            encodings,
            lambda index: f"architectures[{index}].encoding",
            CALLER.get().name,
            context.time_remaining(),
            answers,
        )
        fingerprint: scoring_pb2.Fingerprint | None = None
        async with aclosing(chunks):
            async for chunk in chunks:
                written = []
                for index, result in chunk:
                    answer = result.answer
                    if isinstance(answer, status_pb2.Status):
                        answer = scoring_pb2.ArchitectureResult(error=answer).SerializeToString()
                    elif not isinstance(answer, bytes):
                        fingerprint = fingerprint or await self._fingerprint(common)
                        answer = self._write(answer, result, common, fingerprint, encodings[index], answers)
                    written.append(serialized.numbered(index, answer))
                yield serialized.response(written)

    async def DescribeArchitecture(  # noqa: N802 -- the contract's name
        self, request: scoring_pb2.DescribeArchitectureRequest, _context: Context
    ) -> scoring_pb2.DescribeArchitectureResponse:
        """Says what an architecture's network consists of and costs."""
        space, config = requests.describe_request(request, self._limits, self._catalogue)
        encoding = request.architecture.encoding
        architecture = admit(space, encoding, "architecture.encoding", config, self._limits)
        if isinstance(architecture, status_pb2.Status):
            raise RequestError(architecture)
        description = architecture.describe(
            config.network, resolution=config.resolution, num_classes=config.num_classes
        )
        return responses.description_message(description, config, space)

    async def ListProxies(  # noqa: N802 -- the contract's name
        self, request: scoring_pb2.ListProxiesRequest, _context: Context
    ) -> scoring_pb2.ListProxiesResponse:
        """Lists the registry of proxies."""
        names, token = _page("proxies", registry.names(), request)
        proxies = [responses.proxy_message(registry.get(name)) for name in names]
        return scoring_pb2.ListProxiesResponse(proxies=proxies, next_page_token=token)

    async def ListSearchSpaces(  # noqa: N802 -- the contract's name
        self, request: scoring_pb2.ListSearchSpacesRequest, _context: Context
    ) -> scoring_pb2.ListSearchSpacesResponse:
        """Lists the search spaces."""
        names, token = _page("search_spaces", sorted(SPACES), request)
        spaces = [responses.space_message(SPACES[name]) for name in names]
        return scoring_pb2.ListSearchSpacesResponse(search_spaces=spaces, next_page_token=token)

    async def GetServerInfo(  # noqa: N802 -- the contract's name
        self, _request: scoring_pb2.GetServerInfoRequest, _context: Context
    ) -> scoring_pb2.GetServerInfoResponse:
        """Says what runs here."""
        self._scoring.check_started()
        return responses.server_info_message(self._pool.info, self._catalogue.infos, self._limits, __version__)

    def _check(
        self, request: scoring_pb2.ScoreArchitectureRequest | scoring_pb2.ScoreArchitecturesRequest
    ) -> ScoringRequest:
        """What the architectures of a request have in common.

        Raises:
            RequestError: it comes too early or too late, is at fault, or asks for what is not here.
        """
        self._scoring.check_open()
        common = self._requests.check(request)
        if common.config.precision is Precision.TF32 and not self._pool.info.tf32:
            raise errors.precision_unavailable(scoring_pb2.Precision.Name(enums.PRECISION.write(Precision.TF32)))
        return common

    def _write(
        self,
        scores: Mapping[str, Score],
        result: Result,
        request: ScoringRequest,
        fingerprint: scoring_pb2.Fingerprint,
        encoding: str,
        answers: ByEncoding[Result],
    ) -> bytes:
        """Writes the scores of a result, without its index; keeps what was written if it will be the answer again."""
        message = scoring_pb2.ArchitectureResult()
        responses.write_evaluation(message.evaluation, scores, request.proxies, fingerprint, result.stored)
        written = message.SerializeToString()
        if result.lasting:
            self._answers.keep(answers, encoding, written, result)
        return written

    async def _fingerprint(self, request: ScoringRequest) -> scoring_pb2.Fingerprint:
        """What the scores of a request depend on."""
        return scoring_pb2.Fingerprint(
            config=responses.config_message(request.config, request.space),
            proxy_versions={name: registry.get(name).version for name in request.proxies},
            minibatch_sha256=await self._catalogue.minibatch_sha256(request.config),
            torch_version=self._pool.info.torch_version,
            archscore_version=__version__,
            device_kind=self._pool.info.device_kind,
        )


def _page(
    list_name: str,
    names: list[str],
    request: scoring_pb2.ListProxiesRequest | scoring_pb2.ListSearchSpacesRequest,
) -> tuple[list[str], str]:
    try:
        return pagination.page(list_name, names, request.page_size, request.page_token)
    except PageTokenError as error:
        description = f"must be a next_page_token of this list, is {error}"
        raise RequestError(errors.invalid_argument([("page_token", description)])) from error
