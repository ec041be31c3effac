import { useQueryClient } from '@tanstack/react-query'
import { useEffect, useRef, type FormEvent } from 'react'
import { apiKey, setApiKey } from '../api/http'
import { lettersAreShortcuts, setLettersAreShortcuts, settingsOpen } from './settings'
import { useStore } from './store'

const KEYS: [string, string][] = [
  ['/', 'to the question'],
  ['n, p', 'next and previous quote'],
  ['F6', 'to the next panel'],
  ['Esc', 'stop an answer'],
]

/** The key for this server, and the keyboard. */
export function SettingsDialog() {
  const dialog = useRef<HTMLDialogElement>(null)
  const open = useStore(settingsOpen)
  const client = useQueryClient()
  useEffect(() => {
    if (open) dialog.current?.showModal()
  }, [open])

  function save(event: FormEvent<HTMLFormElement>) {
    const fields = new FormData(event.currentTarget)
    setApiKey(String(fields.get('key') ?? '').trim())
    setLettersAreShortcuts(fields.get('letters') === 'on')
    void client.resetQueries()
  }
  return (
    <dialog ref={dialog} onClose={() => settingsOpen.set(false)} aria-labelledby="settings-title">
      {open && (
        <form method="dialog" onSubmit={save}>
          <h2 id="settings-title">Settings</h2>
          <label>
            Key for this server
            <input name="key" type="password" defaultValue={apiKey()} autoComplete="off" aria-describedby="key-help" />
          </label>
          <p id="key-help" className="quiet">
            Only if the server was started with SHIORI_API_KEY. Kept until this tab is closed.
          </p>
          <label className="check">
            <input name="letters" type="checkbox" defaultChecked={lettersAreShortcuts()} /> Single keys work as shortcuts
          </label>
          <dl className="keys">
            {KEYS.map(([key, what]) => (
              <div key={key}>
                <dt>
                  <kbd>{key}</kbd>
                </dt>
                <dd>{what}</dd>
              </div>
            ))}
          </dl>
          <menu>
            <button type="button" onClick={() => dialog.current?.close()}>
              Close
            </button>
            <button type="submit" className="primary">
              Save
            </button>
          </menu>
        </form>
      )}
    </dialog>
  )
}
