"""Streams a prompt under an adaptive policy, then shows an error, a deadline and a cancel: with asyncio."""

import asyncio
import json
import sys

from thermostat import AsyncClient, Cancelled, DeadlineExceeded, EntropyBand, InvalidRequest, Output

PROMPT = "class Parser:\n    def"


async def main(address: str) -> None:
    """Run the example against a server."""
    async with AsyncClient(address) as client:
        async for event in client.generate(PROMPT, policy=EntropyBand(), seed=7, max_output_tokens=16):
            if isinstance(event, Output):
                for token in event.tokens:
                    info = token.sampling_info
                    text = json.dumps(token.token_bytes.decode(errors="replace"))
                    print(f"{text:16} {info.original_entropy:5.2f} nats  T = {info.temperature:.2f}")

        try:
            await client.text(PROMPT, top_p=1.5)
        except InvalidRequest as error:
            for violation in error.violations:
                print("refused:", violation.field, violation.description)

        try:
            await client.text(PROMPT, max_output_tokens=2000, timeout=0.2)
        except DeadlineExceeded as error:
            print("deadline:", error.code.name)

        events = client.generate(PROMPT, max_output_tokens=2000)
        try:
            async for event in events:
                if isinstance(event, Output):
                    events.cancel()
        except Cancelled as error:
            print("cancel:", error.code.name)


asyncio.run(main(sys.argv[1]))
