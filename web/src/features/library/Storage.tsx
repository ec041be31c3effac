import { bytes, count } from '../../shared/format'
import { useUsage } from './queries'

const TIERS: Record<string, string> = { ring: 'memory', redis: 'Redis', cold: 'disk' }

/** What the readings take, and of how much. */
export function Storage() {
  const usage = useUsage()
  if (usage.isPending) return null
  if (!usage.data) return <p className="quiet storage">Storage of readings: unknown just now.</p>
  const { readings, used_bytes, quota_bytes, tiers } = usage.data
  const of = quota_bytes === null ? '' : ` of ${bytes(quota_bytes)}`
  const where = tiers.filter((tier) => tier.bytes > 0).map((tier) => `${TIERS[tier.name] ?? tier.name} ${bytes(tier.bytes)}`)
  return (
    <p className="quiet storage">
      <span>{`${count(readings)} ${readings === 1 ? 'reading' : 'readings'}: ${bytes(used_bytes)}${of}`}</span>
      {where.length > 0 && <span>{where.join(' · ')}</span>}
    </p>
  )
}
