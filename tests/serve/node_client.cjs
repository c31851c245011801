// The official node client: a chat about a clip, then a live session over wss, which it insists on.
const fs = require("fs");
const OpenAI = require("openai").default ?? require("openai");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");

const [address, clipFile, piecesFile] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
const question = "which color is named?";

async function main() {
  const url = `data:video/mp4;base64,${fs.readFileSync(clipFile).toString("base64")}`;
  const content = [{ type: "video_url", video_url: { url } }, { type: "text", text: question }];
  const messages = [{ role: "user", content }];
  const answer = await client.chat.completions.create({ model: "mirasol", messages });
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ model: "mirasol", messages, stream: true }))
    streamed += chunk.choices[0]?.delta?.content ?? "";
  const file = await client.files.create({ file: fs.createReadStream(clipFile), purpose: "user_data" });
  const live = await new Promise((resolve, reject) => {
    const session = new OpenAIRealtimeWS({ model: "mirasol" }, client);
    let text = "";
    session.on("error", reject);
    session.on("session.created", () => {
      session.send({ type: "session.update", session: { type: "realtime", mirasol: { chunks: true } } });
      for (const piece of JSON.parse(fs.readFileSync(piecesFile)))
        session.send({ type: "input_audio_buffer.append", ...piece });
      session.send({ type: "input_audio_buffer.commit" });
      const item = { type: "message", role: "user", content: [{ type: "input_text", text: question }] };
      session.send({ type: "conversation.item.create", item });
      session.send({ type: "response.create" });
    });
    session.on("response.output_text.delta", (event) => (text += event.delta));
    let chunks = 0;
    session.on("event", (event) => (chunks += event.type === "mirasol.chunk"));
    session.on("response.done", (event) => {
      session.close();
      resolve({ text, status: event.response.status, protocol: new URL(session.url).protocol, chunks });
    });
  });
  console.log(JSON.stringify({ chat: answer.choices[0].message.content, streamed, file: file.id, live }));
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
