// A client of Towline made from protos/ alone: submits a run, follows its log, waits for its end.
//
//   node client.js PROTOS QUEUE_ADDRESS JOB QUEUE CONFIG_JSON
//
// The log goes to standard output byte by byte; the run as one line of JSON to standard error.
const { randomUUID } = require("node:crypto");
const { once } = require("node:events");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protos, address, job, queue, configJson] = process.argv.slice(2);
const files = ["towline/v1/runs.proto", "towline/v1/logs.proto"];
const definition = loader.loadSync(files, { includeDirs: [protos], keepCase: true, enums: String, longs: String });
const { towline } = grpc.loadPackageDefinition(definition);
const credentials = grpc.credentials.createInsecure();
const runs = new towline.v1.RunService(address, credentials);
const logs = new towline.v1.LogService(address, credentials);

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + 30_000;
    client[method](request, { deadline }, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

async function main() {
  const submission = { job, queue, config_json: configJson, author: "node" };
  const { run } = await call(runs, "SubmitRun", { request_id: randomUUID(), run: submission });
  for await (const piece of logs.TailLogs({ run: run.name, follow: true })) {
    if (!process.stdout.write(piece.data)) await once(process.stdout, "drain");
  }
  let last;
  for await (const change of runs.WatchRun({ name: run.name })) last = change.run;
  process.stderr.write(`${JSON.stringify(last)}\n`);
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
