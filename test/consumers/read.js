// What a consumer makes of a stream that nobody here wrote: reads all its messages by the client `nats`, and what has the
// headers of a CloudEvent by the SDK `cloudevents`. Each message as a line of JSON.
//
// node read.js URL STREAM
'use strict';
const { connect } = require('nats');
const { HTTP } = require('cloudevents');

// The binding for NATS has no class of its own in the SDK. It is HTTP's, with names and values as headers, percent-decoded once.
function cloudevent(headers, body)
{
	const decoded = {};
	for (const [name, value] of Object.entries(headers))
		decoded[name.toLowerCase()] = name.startsWith('ce-') ? decodeURIComponent(value) : value;
	const event = HTTP.toEvent({ headers: decoded, body });
	event.validate();
	return event;
}

function read(message)
{
	const headers = {};
	for (const name of message.headers.keys())
		headers[name] = message.headers.get(name);
	const result = { seq: message.seq, subject: message.subject, headers };
	try {
		for (const [name, value] of Object.entries(headers))
			if (!/^[\x21-\x7e]+$/.test(value) && name.startsWith('ce-'))
				throw new Error(`header ${name} is not printable ASCII`);
		result.data = message.json();
		if (headers['ce-specversion'])
			result.event = cloudevent(headers, message.string());
	} catch (error) {
		result.error = `${error.message} ${JSON.stringify(error.errors || '')}`;
	}
	return result;
}

(async () => {
	const connection = await connect({ servers: process.argv[2] });
	const stream = await connection.jetstreamManager().then(manager => manager.streams.info(process.argv[3]));
	const consumer = await connection.jetstream().consumers.get(process.argv[3]);
	for await (const message of await consumer.fetch({ max_messages: stream.state.messages, expires: 10000 })) {
		console.log(JSON.stringify(read(message)));
		if (message.info.pending === 0)
			break;
	}
	await connection.close();
})().catch(error => { console.error(error); process.exit(1); });
