"""The official openai client, unchanged but for its base_url."""

import json
import unittest

import openai

from serving import Server, eventually

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIMER = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Start a timer",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
    },
}
BERLIN = [{"role": "user", "content": "What is the weather in Berlin?"}]
SUM = [{"role": "user", "content": "Compute 34 + 6."}]
COPY = [{"role": "user", "content": "Say exactly: Omapel"}]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


class OpenAi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--api-key", "secret", "--max-running-requests", "8")
        cls.client = openai.OpenAI(base_url=cls.server.address + "/v1", api_key="secret", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__()

    def chat(self, messages, **more):
        return self.client.chat.completions.create(model="glm-nano", messages=messages, temperature=0, **more)

    def test_answer_with_reasoning_and_usage(self):
        answer = self.chat(SUM)
        choice = answer.choices[0]
        self.assertEqual(choice.message.content, "40")
        self.assertEqual(choice.message.reasoning_content, "4+6=10, 3+0+1=4")
        self.assertEqual(choice.finish_reason, "stop")
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertGreater(answer.usage.completion_tokens_details.reasoning_tokens, 0)

    def test_stream_equals_the_whole_answer(self):
        content, reasoning, usage, finish = "", "", None, None
        for chunk in self.chat(SUM, stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                content += choice.delta.content or ""
                reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                finish = choice.finish_reason or finish
        whole = self.chat(SUM)
        self.assertEqual(content, whole.choices[0].message.content)
        self.assertEqual(reasoning, whole.choices[0].message.reasoning_content)
        self.assertEqual(finish, "stop")
        self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)

    def test_thinking_can_be_off(self):
        message = self.chat(COPY, extra_body=NO_THINKING).choices[0].message
        self.assertEqual(message.content, "Omapel")
        self.assertFalse(message.reasoning_content)

    def test_tool_call(self):
        for thinking in (True, False):
            extra = {"chat_template_kwargs": {"enable_thinking": thinking}}
            choice = self.chat(BERLIN, tools=[TIMER, WEATHER], extra_body=extra).choices[0]
            self.assertEqual(choice.finish_reason, "tool_calls")
            (call,) = choice.message.tool_calls
            self.assertEqual(call.function.name, "get_weather")
            self.assertEqual(json.loads(call.function.arguments), {"city": "Berlin"})
            self.assertTrue(call.id.startswith("call_"))

    def test_tool_call_streamed_through_the_clients_accumulator(self):
        with self.client.chat.completions.stream(
            model="glm-nano", messages=BERLIN, tools=[TIMER, WEATHER], temperature=0
        ) as stream:
            kinds = {event.type for event in stream}
            choice = stream.get_final_completion().choices[0]
        self.assertIn("tool_calls.function.arguments.delta", kinds)
        self.assertEqual(choice.finish_reason, "tool_calls")
        self.assertEqual(choice.message.tool_calls[0].function.name, "get_weather")
        self.assertEqual(json.loads(choice.message.tool_calls[0].function.arguments), {"city": "Berlin"})

    def test_tool_choice_none_gives_no_call(self):
        choice = self.chat(BERLIN, tools=[WEATHER], tool_choice="none", max_tokens=30).choices[0]
        self.assertIsNone(choice.message.tool_calls)
        self.assertNotEqual(choice.finish_reason, "tool_calls")

    def test_tool_result_goes_back(self):
        convert = {
            "type": "function",
            "function": {
                "name": "convert",
                "description": "Convert money",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "amount": {"type": "integer"},
                        "source": {"type": "string"},
                        "target": {"type": "string"},
                    },
                    "required": ["amount", "source", "target"],
                },
            },
        }
        arguments = json.dumps({"amount": 136, "source": "dollars", "target": "francs"})
        messages = [
            {"role": "user", "content": "How many francs are 136 dollars?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "convert", "arguments": arguments}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": '{"result": 562}'},
        ]
        answer = self.chat(messages, tools=[TIMER, convert], extra_body=NO_THINKING)
        self.assertEqual(answer.choices[0].message.content, "136 dollars are 562 francs.")

    def test_a_call_can_be_forced(self):
        strict = {"type": "function", "function": dict(WEATHER["function"], strict=True)}
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            answer = self.chat(COPY, tools=[strict], tool_choice=choice, extra_body=NO_THINKING).choices[0]
            self.assertEqual(answer.finish_reason, "tool_calls")
            self.assertEqual(answer.message.content, "")
            for call in answer.message.tool_calls:
                self.assertEqual(call.function.name, "get_weather")
                self.assertEqual(list(json.loads(call.function.arguments)), ["city"])

    def test_the_answer_has_the_schema(self):
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
        asked = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
        for thinking in (NO_THINKING, {}):
            answer = self.chat(COPY, response_format=asked, extra_body=thinking, max_tokens=500).choices[0]
            self.assertEqual(answer.finish_reason, "stop")
            value = json.loads(answer.message.content)
            self.assertEqual(list(value), ["name", "age"])
            self.assertTrue(len(value["name"]) <= 10 and 0 <= value["age"] <= 99)

    def test_what_is_not_supported_is_named(self):
        schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(BERLIN, response_format=asked)
        self.assertIn("#/properties/a: uniqueItems", caught.exception.message)

    def test_logprobs(self):
        choice = self.chat(COPY, logprobs=True, top_logprobs=3, extra_body=NO_THINKING).choices[0]
        self.assertEqual("".join(token.token for token in choice.logprobs.content), "Omapel")
        for token in choice.logprobs.content:
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertAlmostEqual(token.logprob, token.top_logprobs[0].logprob, places=4)
            self.assertEqual(bytes(token.bytes).decode(), token.token)

    def test_n_choices_and_seed(self):
        again = [
            [choice.message.content for choice in self.chat(COPY, n=3, seed=7, max_tokens=8).choices] for _ in range(2)
        ]
        self.assertEqual(len(again[0]), 3)
        self.assertEqual(again[0], again[1])

    def test_n_choices_streamed(self):
        finished = set()
        for chunk in self.chat(COPY, n=3, stream=True, max_tokens=8):
            finished |= {choice.index for choice in chunk.choices if choice.finish_reason}
        self.assertEqual(finished, {0, 1, 2})

    def test_stop_strings_and_length(self):
        stopped = self.chat(COPY, stop=["pel"], extra_body=NO_THINKING).choices[0]
        self.assertEqual((stopped.message.content, stopped.finish_reason), ("Oma", "stop"))
        cut = self.chat(SUM, max_completion_tokens=3)
        self.assertEqual((cut.choices[0].finish_reason, cut.usage.completion_tokens), ("length", 3))

    def test_text_completion(self):
        prompt = "[gMASK]<sop><|user|>Say exactly: Omapel<|assistant|><think></think>"
        answer = self.client.completions.create(model="glm-nano", prompt=prompt, temperature=0, max_tokens=10)
        self.assertEqual(answer.choices[0].text, "Omapel")
        pieces = self.client.completions.create(
            model="glm-nano", prompt=prompt, temperature=0, max_tokens=10, stream=True
        )
        self.assertEqual("".join(chunk.choices[0].text for chunk in pieces if chunk.choices), "Omapel")
        two = self.client.completions.create(model="glm-nano", prompt=[prompt, prompt], temperature=0, max_tokens=10)
        self.assertEqual([choice.text for choice in two.choices], ["Omapel", "Omapel"])

    def test_shared_prefix_is_reported(self):
        long = [{"role": "user", "content": "The code of Tinul is 9264. " * 40 + "What is the code of Tinul?"}]
        self.chat(long, max_tokens=2)
        again = self.chat(long, max_tokens=2)
        cached = again.usage.prompt_tokens_details.cached_tokens
        self.assertGreater(cached, again.usage.prompt_tokens / 2)
        self.assertLess(cached, again.usage.prompt_tokens)

    def test_models(self):
        (model,) = self.client.models.list().data
        self.assertEqual(model.id, "glm-nano")
        self.assertEqual(self.client.models.retrieve("glm-nano").id, "glm-nano")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("other")

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat([{"role": "nobody", "content": "a"}])
        self.assertEqual(caught.exception.type, "invalid_request_error")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(COPY, max_tokens=-5)
        self.assertEqual(caught.exception.param, "max_tokens")
        stranger = openai.OpenAI(base_url=self.server.address + "/v1", api_key="wrong", max_retries=0)
        with stranger, self.assertRaises(openai.AuthenticationError):
            stranger.models.list()

    def test_leaving_a_stream_stops_the_work(self):
        def running():
            text = self.client.get("/../metrics", cast_to=str)
            line = next(line for line in text.splitlines() if line.startswith("longshore:num_running_reqs{"))
            return float(line.split()[-1])

        stream = self.chat(COPY, stream=True, max_tokens=7000, extra_body={"ignore_eos": True})
        next(iter(stream))
        self.assertTrue(eventually(lambda: running() == 1))
        stream.close()
        self.assertTrue(eventually(lambda: running() == 0, 5))


class AsyncOpenAi(unittest.IsolatedAsyncioTestCase):
    async def test_many_at_once(self):
        import asyncio

        with Server() as server:
            async with openai.AsyncOpenAI(base_url=server.address + "/v1", api_key="-", max_retries=0) as client:

                async def one():
                    answer = await client.chat.completions.create(
                        model="glm-nano", messages=COPY, temperature=0, extra_body=NO_THINKING
                    )
                    return answer.choices[0].message.content

                answers = await asyncio.gather(*(one() for _ in range(40)))
        self.assertEqual(set(answers), {"Omapel"})


if __name__ == "__main__":
    unittest.main()
