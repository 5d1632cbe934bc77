// SPDX-License-Identifier: MIT
// MQTT.js as a client that driver.py speaks with: requests and answers are lines of JSON.

'use strict'

const mqtt = require('mqtt')
const readline = require('readline')

const clients = new Map()
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')

function theirs (props, alias) {
  const p = {}
  if (props.user) {
    p.userProperties = {}
    for (const [k, v] of props.user) {
      p.userProperties[k] = k in p.userProperties ? [].concat(p.userProperties[k], v) : v
    }
  }
  if (props.response_topic) p.responseTopic = props.response_topic
  if (props.correlation) p.correlationData = Buffer.from(props.correlation)
  if (props.content_type) p.contentType = props.content_type
  if (props.expiry) p.messageExpiryInterval = props.expiry
  if (props.format) p.payloadFormatIndicator = true
  if (alias) p.topicAlias = alias
  return p
}

function ours (p) {
  const props = {}
  if (!p) return props
  if (p.userProperties) {
    props.user = []
    for (const [k, v] of Object.entries(p.userProperties)) for (const one of [].concat(v)) props.user.push([k, one])
  }
  if (p.responseTopic !== undefined) props.response_topic = p.responseTopic
  if (p.correlationData !== undefined) props.correlation = p.correlationData.toString()
  if (p.contentType !== undefined) props.content_type = p.contentType
  if (p.messageExpiryInterval !== undefined) props.expiry = p.messageExpiryInterval
  if (p.payloadFormatIndicator !== undefined) props.format = Number(p.payloadFormatIndicator)
  if (p.subscriptionIdentifier !== undefined) props.ids = [].concat(p.subscriptionIdentifier)
  return props
}

const verbs = {
  connect (r) {
    const v5 = r.version === 5
    const options = {
      host: '127.0.0.1',
      port: r.port,
      clientId: r.id,
      clean: r.clean,
      reconnectPeriod: 0,
      resubscribe: false,
      protocolVersion: r.version,
      protocolId: r.version === 3 ? 'MQIsdp' : 'MQTT'
    }
    if (v5) {
      options.properties = { sessionExpiryInterval: r.expiry }
      if (r.alias_max) options.properties.topicAliasMaximum = r.alias_max
    }
    if (r.will) {
      const w = r.will
      options.will = { topic: w.topic, payload: Buffer.from(w.payload, 'base64'), qos: w.qos, retain: w.retain }
      if (v5) options.will.properties = theirs(w.props)
      if (v5 && w.delay) options.will.properties.willDelayInterval = w.delay
    }
    const client = mqtt.connect(options)
    const state = { client, over: false, reason: 0, answered: false }
    clients.set(r.client, state)
    // Messages of a resumed session come right behind the CONNACK, so this is set up before it.
    client.on('message', (topic, payload, p) => say({
      event: 'message',
      client: r.client,
      topic,
      payload: payload.toString('base64'),
      qos: p.qos,
      retain: p.retain,
      dup: p.dup,
      props: ours(p.properties)
    }))
    client.on('disconnect', (p) => { state.reason = p.reasonCode })
    client.on('close', () => {
      if (!state.over) {
        state.over = true
        say({ event: 'down', client: r.client, reason: state.reason })
      }
    })
    client.on('error', (e) => {
      if (!state.answered) {
        state.answered = state.over = true
        say({ n: r.n, error: String(e), reason: e.code })
      }
    })
    client.on('connect', async (ack) => {
      state.answered = true
      const granted = []
      for (const f of r.filters) {
        const options = { qos: f.qos }
        if (v5) {
          Object.assign(options, { nl: f.no_local, rap: f.rap, rh: f.rh })
          if (f.id) options.properties = { subscriptionIdentifier: f.id }
        }
        for (const g of await client.subscribeAsync(f.filter, options)) granted.push(g.qos)
      }
      const assigned = ack.properties && ack.properties.assignedClientIdentifier
      say({ n: r.n, present: ack.sessionPresent, assigned: assigned || null, granted })
    })
  },

  async publish (r) {
    const { client } = clients.get(r.client)
    const payload = Buffer.from(r.payload, 'base64')
    const all = []
    for (let i = 0; i < r.repeat; i++) {
      const options = { qos: r.qos, retain: r.retain }
      if (client.options.protocolVersion === 5) options.properties = theirs(r.props, r.alias)
      all.push(client.publishAsync(r.alias && i ? '' : r.topic, payload, options))
    }
    await Promise.all(all)
    say({ n: r.n })
  },

  async unsubscribe (r) {
    await clients.get(r.client).client.unsubscribeAsync(r.filter)
    say({ n: r.n })
  },

  async disconnect (r) {
    const state = clients.get(r.client)
    state.over = true
    await state.client.endAsync(false)
    say({ n: r.n })
  },

  drop (r) {
    const state = clients.get(r.client)
    state.over = true
    state.client.stream.destroy()
    say({ n: r.n })
  }
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const r = JSON.parse(line)
  Promise.resolve().then(() => verbs[r.verb](r)).catch((e) => say({ n: r.n, error: String(e) }))
}).on('close', () => process.exit(0))
