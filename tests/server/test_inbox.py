"""The inbox: what is taken, what is refused, and who makes room."""

import pytest

from server.engine.inbox import Displace, EngineDown, Inbox, QueueFull, Verb
from server.engine.request import GenerationRequest


def request(client, name=""):
    return GenerationRequest(name, (1,), client=client)


def filled(capacity=4, per_client=None, client="many"):
    inbox = Inbox(capacity, per_client)
    inbox.open = True
    for _ in range(capacity):
        inbox.submit(request(client))
    list(inbox.messages())
    return inbox


def test_a_full_engine_refuses_the_one_who_filled_it():
    inbox = filled()
    assert inbox.full("many")
    with pytest.raises(QueueFull, match="4 generations"):
        inbox.submit(request("many"))
    inbox.forget("many")
    assert not inbox.full("many")


def test_a_client_with_less_gets_in_at_the_cost_of_the_one_with_most():
    inbox = filled()
    for taken in (1, 2):
        newcomer = request("one", str(taken))
        inbox.submit(newcomer)
        assert list(inbox.messages()) == [Displace("many"), newcomer]
        inbox.forget("many")
        inbox.displaced()
        assert inbox.live == 4
    with pytest.raises(QueueFull):  # two each now: nobody has two more
        inbox.submit(request("one"))


def test_a_clients_own_limit_holds_while_there_is_room():
    inbox = Inbox(100, per_client=2)
    inbox.open = True
    inbox.submit(request("a"))
    inbox.submit(request("a"))
    with pytest.raises(QueueFull, match="of this client"):
        inbox.submit(request("a"))
    inbox.submit(request("b"))


def test_messages_come_in_order_and_once():
    inbox = Inbox(10)
    with pytest.raises(EngineDown):
        inbox.submit(request("a"))
    inbox.open = True
    first = request("a", "first")
    inbox.submit(first)
    inbox.tell(Verb.HOLD, "first")
    inbox.tell(Verb.CANCEL, "first")
    assert inbox.wake.is_set()
    assert list(inbox.messages()) == [first, (Verb.HOLD, "first"), (Verb.CANCEL, "first")]
    assert list(inbox.messages()) == []
