// Sends requests as SolarNetwork's public JavaScript client makes and signs them.
//
// node solarnetwork_client.mjs FOLDER URL TOKEN_ID SECRET: below FOLDER is node_modules. Each line
// read is a request {method, path, body}, a new instruction {method, instruction: {topic,
// parameters}, form}, a look at one {view: id} or a question about datum {ask, filter, more} with
// the name of the client's method for its URL; each line written is its answer {status, location,
// body}; of datum also the dates and of streams the rows that the client makes of them.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, url, tokenId, secret] = process.argv.slice(2);
const { Domain, Net, Util } = await import(
  pathToFileURL(`${folder}/node_modules/solarnetwork-api-core/lib/index.js`)
);
const environment = new Net.Environment(new URL(url));
const api = new Net.SolarUserApi(environment);
const query = new Net.SolarQueryApi(environment);
const FORM = "application/x-www-form-urlencoded; charset=UTF-8";

function filterOf({ startDate, endDate, aggregation, ...given }) {
  const filter = new Domain.DatumFilter(given);
  if (startDate) filter.startDate = new Date(startDate);
  if (endDate) filter.endDate = new Date(endDate);
  if (aggregation) filter.aggregation = Domain.Aggregations[aggregation];
  return filter;
}

function questionUrl({ ask, filter, readingType, max, offset = 0, sort }) {
  if (ask === "listAllNodeIdsUrl") return query.listAllNodeIdsUrl();
  if (ask === "reportableIntervalUrl") {
    return query.reportableIntervalUrl(filter.nodeId, filter.sourceIds);
  }
  const meant = filterOf(filter);
  if (ask === "availableSourcesUrl") return query.availableSourcesUrl(meant, true);
  const page = max ? new Domain.Pagination(max, offset) : undefined;
  const sorts = sort && [new Domain.SortDescriptor(sort, true)];
  if (!readingType) return query[ask](meant, sorts, page);
  const type = Domain.DatumReadingTypes[readingType];
  return query[ask](type, meant, "P1D", sorts, page);
}

function streamed({ meta, data }) {
  if (!meta) return undefined;
  const registry = Util.DatumStreamMetadataRegistry.fromJsonObject(meta);
  return data.map((row) => Util.Datum.datumForStreamData(row, registry).toObject());
}

function urlOf({ path, instruction, view, ...question }) {
  if (question.ask) return questionUrl(question);
  if (view) return api.viewInstructionUrl(view);
  if (instruction) return api.queueInstructionUrl(instruction.topic, instruction.parameters);
  return api.baseUrl() + path;
}

async function send({ method = "GET", body, form, ...meant }) {
  let target = urlOf(meant);
  const builder = new Net.AuthorizationV2Builder(tokenId, environment);
  builder.snDate(true).date(new Date()).method(method).saveSigningKey(secret);
  let content;
  if (form) {
    const [place, query] = target.split("?");
    builder.url(place).queryParams(Net.Urls.urlQueryParse(query)).contentType(FORM);
    [target, content] = [place, query];
  } else {
    builder.url(target, meant.ask !== undefined); // of questions as solarnetwork-datum-loader
    if (body !== undefined) {
      content = typeof body === "string" ? body : JSON.stringify(body);
      builder.contentType("application/json; charset=UTF-8").computeContentDigest(content);
    }
  }
  const headers = {
    Authorization: builder.buildWithSavedKey(),
    "X-SN-Date": builder.requestDateHeaderValue,
  };
  for (const name of ["Content-Type", "Digest"]) {
    const value = builder.httpHeaders.firstValue(name);
    if (value) headers[name] = value;
  }
  const answer = await fetch(target, { method, headers, body: content });
  const said = await answer.json();
  return {
    status: answer.status,
    location: answer.headers.get("Location"),
    body: said,
    rows: streamed(said),
    dates: said.data?.results?.map(Util.Datum.datumDate),
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await send(JSON.parse(line))));
}
