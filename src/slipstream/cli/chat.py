"""`slipstream chat`: a conversation in the terminal, or one turn per line of stdin."""

import json
import signal
import sys
from dataclasses import dataclass, field
from typing import Annotated

import typer

from slipstream.cli.answering import (
    ActivationsChoice,
    Context,
    Json,
    KVChoice,
    MinP,
    Seed,
    Temperature,
    Threads,
    TopK,
    TopP,
    answer,
    open_engine,
    report,
    say_speed,
    show_text,
)
from slipstream.engine.codec import Message
from slipstream.engine.engine import Engine
from slipstream.engine.request import Request, SamplingParams
from slipstream.errors import PromptTooLongError, RequestError, TemplateError

ROOM_SHARE = 4  # a quarter of the context stays free for the answer
HELP = """/help   this
/reset  forget the conversation
/exit   leave (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass
class Session:
    """A conversation: what was said, and how answers are drawn."""

    engine: Engine
    params: SamplingParams
    system: str | None
    as_json: bool
    turns: list[Message] = field(default_factory=list)

    def say(self, text: str) -> None:
        """One turn of the user and the answer to it; what is refused leaves no trace."""
        self.turns.append({"role": "user", "content": text})
        try:
            request = self._request()
        except (RequestError, TemplateError):
            self.turns.pop()
            raise
        outcome = answer(self.engine, request, (lambda text: None) if self.as_json else show_text)
        self.turns.append({"role": "assistant", "content": outcome.completion.text})
        if self.as_json:
            print(json.dumps(report(self.engine, outcome), ensure_ascii=False), flush=True)
            return
        show_text("\n")
        say_speed(outcome.completion.timings)

    def _request(self) -> Request:
        """The conversation as a request; the earliest turns go when it no longer fits."""
        forgotten = 0
        while True:
            try:
                ids = self.engine.chat_ids(self._messages())
                last = len(self.turns) == 1
                if not last and len(ids) > self.engine.settings.context * (1 - 1 / ROOM_SHARE):
                    raise PromptTooLongError("no room for an answer")
                request = self.engine.request(ids, self.params)
                break
            except PromptTooLongError:
                if len(self.turns) == 1:
                    raise
                del self.turns[:2]
                forgotten += 2
        if forgotten:
            print(f"(the first {forgotten} turns no longer fit and are forgotten)", file=sys.stderr)
        return request

    def _messages(self) -> list[Message]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: Annotated[str, typer.Argument(help="a name, a file or a folder")] = "smollm2:135m",
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="say this, then end")] = None,
    system: Annotated[str | None, typer.Option(help="what the model is told first")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", "-n", min=1)] = None,
    temperature: Temperature = 0.2,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    min_p: MinP = 0.0,
    seed: Seed = None,
    context: Context = None,
    threads: Threads = None,
    activations: ActivationsChoice = "auto",
    kv: KVChoice = None,
    as_json: Json = False,
) -> None:
    """Talk with a model. Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands.

    Without a terminal each line of stdin is a turn; --json prints each answer as a JSON line.
    """
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_tokens=max_tokens,
        seed=seed,
    )
    session = Session(
        open_engine(model, context, threads, activations, kv), params, system, as_json
    )
    if prompt is not None:
        session.say(sys.stdin.read() if prompt == "-" else prompt)
        return
    converse(session)


def converse(session: Session) -> None:
    """Reads turns until /exit or the end of input. An error ends a turn, not the conversation."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401, PLC0415  importing it gives input() its history

        # A parent may have started us with Ctrl-C ignored (shells do so with background jobs).
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"{session.engine.name} · /help for help", file=sys.stderr)
    while True:
        try:
            text = input("> " if interactive else "").strip()
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /exit to leave)", file=sys.stderr)
            continue
        except EOFError:
            if interactive:
                print(file=sys.stderr)
            return
        if text == "/exit":
            return
        _obey(session, text)


def _obey(session: Session, text: str) -> None:
    if text == "/help":
        print(HELP, file=sys.stderr)
    elif text == "/reset":
        session.turns.clear()
    elif text.startswith("/") and " " not in text:
        print(f"there is no command {text}; /help lists them", file=sys.stderr)
    elif text:
        try:
            session.say(text)
        except (RequestError, TemplateError) as error:
            print(f"error: {error}", file=sys.stderr)
