// Embeds texts over gRPC with stubs of its own: node embed.mjs HOST:PORT MODEL TEXT...
// Prints one JSON object a text.
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../kserve_v2.proto", import.meta.url));
const { inference } = grpc.loadPackageDefinition(loader.loadSync(PROTO, { keepCase: true }));

const [url, model, ...texts] = process.argv.slice(2);
if (texts.length === 0) {
  console.error("usage: node embed.mjs HOST:PORT MODEL TEXT...");
  process.exit(2);
}
const client = new inference.GRPCInferenceService(url, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
});

const timeoutMs = 10_000;
const request = {
  model_name: model,
  // Triton's own timeout, in microseconds: an answer that comes too late is not computed.
  parameters: { timeout: { int64_param: timeoutMs * 1000 } },
  inputs: [
    {
      name: "TEXT",
      datatype: "BYTES",
      shape: [texts.length, 1],
      contents: { bytes_contents: texts.map((text) => Buffer.from(text, "utf8")) },
    },
  ],
};

client.ModelInfer(request, { deadline: Date.now() + timeoutMs }, (error, response) => {
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exit(1);
  }
  const place = Object.fromEntries(response.outputs.map(({ name }, i) => [name, i]));
  const raw = (name) => response.raw_output_contents[place[name]];
  const dimensions = Number(response.outputs[place.EMBEDDING].shape[1]);
  const vectors = raw("EMBEDDING");
  texts.forEach((text, row) => {
    const embedding = Array.from({ length: dimensions }, (_, column) =>
      vectors.readFloatLE(4 * (row * dimensions + column)),
    );
    const token_count = raw("TOKEN_COUNT").readInt32LE(4 * row);
    const truncated = raw("TRUNCATED")[row] === 1;
    console.log(JSON.stringify({ text, token_count, truncated, embedding }));
  });
  client.close();
});
