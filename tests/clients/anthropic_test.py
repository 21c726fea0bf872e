"""The official anthropic client, unchanged but for its base_url."""

import unittest

import anthropic

from serving import Server, eventually

WEATHER = {
    "name": "get_weather",
    "description": "Weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIMER = {
    "name": "set_timer",
    "description": "Start a timer",
    "input_schema": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
}
BERLIN = [{"role": "user", "content": "What is the weather in Berlin?"}]
SUM = [{"role": "user", "content": "Compute 34 + 6."}]
COPY = [{"role": "user", "content": "Say exactly: Omapel"}]
THINK = {"type": "enabled", "budget_tokens": 1024}


class Anthropic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--api-key", "secret")
        cls.client = anthropic.Anthropic(base_url=cls.server.address, api_key="secret", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__()

    def ask(self, messages, **more):
        options = {"model": "glm-nano", "max_tokens": 100, "extra_body": {"temperature": 0}} | more
        return self.client.messages.create(messages=messages, **options)

    def test_answer(self):
        answer = self.ask(COPY)
        self.assertEqual([(block.type, block.text) for block in answer.content], [("text", "Omapel")])
        self.assertEqual(answer.stop_reason, "end_turn")
        self.assertGreater(answer.usage.input_tokens, 0)
        self.assertGreater(answer.usage.output_tokens, 0)

    def test_thinking(self):
        blocks = self.ask(SUM, max_tokens=2000, thinking=THINK).content
        self.assertEqual([block.type for block in blocks], ["thinking", "text"])
        self.assertEqual(blocks[0].thinking, "4+6=10, 3+0+1=4")
        self.assertEqual(blocks[1].text, "40")

    def stream(self, messages, **more):
        with self.client.messages.stream(
            model="glm-nano", messages=messages, **({"max_tokens": 2000, "extra_body": {"temperature": 0}} | more)
        ) as stream:
            events = [event.type for event in stream]
            return events, stream.get_final_message()

    def test_stream_through_the_clients_accumulator(self):
        events, message = self.stream(SUM, thinking=THINK)
        self.assertEqual(events[0], "message_start")
        self.assertEqual(events[-1], "message_stop")
        self.assertEqual([block.type for block in message.content], ["thinking", "text"])
        self.assertEqual(message.content[1].text, "40")
        self.assertEqual(message.stop_reason, "end_turn")
        whole = self.ask(SUM, max_tokens=2000, thinking=THINK)
        self.assertEqual(message.usage.output_tokens, whole.usage.output_tokens)

    def test_tool_use(self):
        for tool_choice in ({"type": "auto"}, None):
            more = {"tool_choice": tool_choice} if tool_choice else {}
            answer = self.ask(BERLIN, tools=[TIMER, WEATHER], **more)
            self.assertEqual(answer.stop_reason, "tool_use")
            (use,) = [block for block in answer.content if block.type == "tool_use"]
            self.assertEqual((use.name, use.input), ("get_weather", {"city": "Berlin"}))

    def test_tool_use_streamed(self):
        _, message = self.stream(BERLIN, tools=[TIMER, WEATHER])
        self.assertEqual(message.stop_reason, "tool_use")
        (use,) = [block for block in message.content if block.type == "tool_use"]
        self.assertEqual((use.name, use.input), ("get_weather", {"city": "Berlin"}))

    def test_tool_choice_none_gives_no_call(self):
        answer = self.ask(BERLIN, tools=[WEATHER], tool_choice={"type": "none"}, max_tokens=30)
        self.assertNotIn("tool_use", [block.type for block in answer.content])

    def test_tool_result_goes_back(self):
        convert = {
            "name": "convert",
            "description": "Convert money",
            "input_schema": {
                "type": "object",
                "properties": {
                    "amount": {"type": "integer"},
                    "source": {"type": "string"},
                    "target": {"type": "string"},
                },
                "required": ["amount", "source", "target"],
            },
        }
        use = {"amount": 136, "source": "dollars", "target": "francs"}
        messages = [
            {"role": "user", "content": "How many francs are 136 dollars?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "convert", "input": use}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": '{"result": 562}'}],
            },
        ]
        answer = self.ask(messages, tools=[TIMER, convert])
        self.assertEqual(answer.content[-1].text, "136 dollars are 562 francs.")

    def test_system_and_blocks(self):
        content = [{"type": "text", "text": "Say exactly: Omapel", "cache_control": {"type": "ephemeral"}}]
        answer = self.ask([{"role": "user", "content": content}], system="Answer briefly.")
        self.assertEqual(answer.content[0].text, "Omapel")

    def test_stop_sequence_and_length(self):
        stopped = self.ask(COPY, stop_sequences=["pel"])
        self.assertEqual((stopped.content[0].text, stopped.stop_reason), ("Oma", "stop_sequence"))
        self.assertEqual(stopped.stop_sequence, "pel")
        self.assertEqual(self.ask(COPY, max_tokens=1).stop_reason, "max_tokens")

    def test_count_tokens_equals_usage(self):
        for more in ({}, {"tools": [WEATHER]}, {"system": "Answer briefly."}):
            count = self.client.messages.count_tokens(model="glm-nano", messages=BERLIN, **more).input_tokens
            usage = self.ask(BERLIN, **more).usage
            self.assertEqual(count, usage.input_tokens + (usage.cache_read_input_tokens or 0))

    def test_models(self):
        (model,) = self.client.models.list().data
        self.assertEqual(model.id, "glm-nano")
        self.assertEqual(self.client.models.retrieve("glm-nano").display_name, "glm-nano")

    def test_errors(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.ask([{"role": "nobody", "content": "a"}])
        self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")
        with self.assertRaises(anthropic.BadRequestError):
            self.ask(BERLIN, tools=[WEATHER], tool_choice={"type": "tool", "name": "nobody"})
        with anthropic.Anthropic(base_url=self.server.address, api_key="wrong", max_retries=0) as stranger:
            with self.assertRaises(anthropic.AuthenticationError):
                stranger.models.list()

    def test_leaving_a_stream_stops_the_work(self):
        def running():
            text = self.client.get("/metrics", cast_to=str)
            line = next(line for line in text.splitlines() if line.startswith("longshore:num_running_reqs{"))
            return float(line.split()[-1])

        # The stream begins when the prompt's computation does, which takes seconds.
        story = [{"role": "user", "content": "The code of Tinul is 9264. " * 500}]
        with self.client.messages.stream(model="glm-nano", messages=story, max_tokens=10) as stream:
            next(iter(stream))
            self.assertTrue(eventually(lambda: running() == 1))
        self.assertTrue(eventually(lambda: running() == 0, 5))


if __name__ == "__main__":
    unittest.main()
